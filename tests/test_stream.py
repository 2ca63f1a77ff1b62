"""The tokenised store, the stream of batches over it, and the thread that reads ahead."""

import dataclasses
import itertools
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import data_set

from transformer_jax.config import BatchConfig, TokenizerConfig
from transformer_jax.data import store as store_module
from transformer_jax.data import stream as stream_module
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.data.prefetch import prefetch
from transformer_jax.data.store import Store, open_store
from transformer_jax.data.stream import BatchStream, StreamPosition, one_pass
from transformer_jax.errors import UserError
from transformer_jax.storage.cache_folders import default_cache_dir
from transformer_jax.tokenization.subword_sampling import Sampling
from transformer_jax.tokenization.tokenizer import Tokenizer

IDS = SimpleNamespace(pad_id=9, decoder_start_id=7)
CONFIGS = {
    "bucketed": BatchConfig(tokens=300, row_multiple=4, shapes=5, max_length=40),
    "packed": BatchConfig(kind="packed", tokens=400, row_multiple=4, max_length=40, packed_length=50),
}


def numbered(pairs: int, longest: int = 40) -> Store:
    """A store whose pair i is made of the id 10 + i alone, so that a batch tells which pairs it has."""
    random = np.random.default_rng(0)
    arrays = []
    for _ in range(2):
        sizes = np.clip(random.lognormal(2.2, 0.5, pairs), 1, longest).astype(np.int64)
        arrays += [np.repeat(np.arange(pairs) + 10, sizes).astype(np.int32), np.concatenate([[0], np.cumsum(sizes)])]
    return Store(*arrays)


def epoch(stream: BatchStream, number: int) -> list:
    return [batch for batch, _ in itertools.takewhile(after(number), stream_with_start(stream, number))]


def stream_with_start(stream: BatchStream, number: int):
    """(batch, the position BEFORE it)"""
    position = StreamPosition(number, 0)
    for batch, following in stream.batches(position):
        yield batch, position
        position = following


def after(number: int):
    return lambda item: item[1].epoch == number


def members(store: Store, batch) -> list[int]:
    """The pairs of a batch; each must be there once and whole, on both sides."""
    found = []
    for ids, segments, lengths in (
        (batch.source, batch.source_segment, store.source_lengths),
        (batch.target_output, batch.target_segment, store.target_lengths),
    ):
        numbers, counts = np.unique(ids[segments > 0] - 10, return_counts=True)
        assert (counts == lengths[numbers]).all()
        found.append(numbers.tolist())
    assert found[0] == found[1]
    return found[0]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(stream_module, "_CHUNK_PAIRS", 100)
    monkeypatch.setattr(stream_module, "_CHUNK_BATCHES", 2)


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_pair_comes_once_an_epoch(kind, small_chunks):
    store = numbered(1000)
    stream = BatchStream(store, CONFIGS[kind], IDS, seed=3)
    epochs = [[members(store, batch) for batch in epoch(stream, number)] for number in range(3)]
    for batches in epochs:
        assert sorted(itertools.chain.from_iterable(batches)) == list(range(1000))
    assert epochs[0] != epochs[1] != epochs[2]
    assert [members(store, batch) for batch in epoch(BatchStream(store, CONFIGS[kind], IDS, seed=3), 1)] == epochs[1]
    assert [members(store, batch) for batch in epoch(BatchStream(store, CONFIGS[kind], IDS, seed=4), 1)] != epochs[1]
    assert {tuple(batch.source.shape) for batch in epoch(stream, 0)} <= {shape[:2] for shape in stream.shapes}


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_bit_of_a_seed_counts_and_no_other_seed_has_its_epochs(kind):
    store = numbered(200)

    def order(seed, number):
        return [members(store, batch) for batch in epoch(BatchStream(store, CONFIGS[kind], IDS, seed=seed), number)]

    orders = [order(seed, number) for seed in (0, 1, 1 << 32, 1 << 33, (1 << 64) - 1) for number in (0, 1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    for seed in (0, 7, (1 << 32) - 1):  # as it was before seeds had 64 bits
        for part in (0, 3):
            stream, before = BatchStream(store, CONFIGS[kind], IDS, seed=seed), [seed, 5, part] if part else [seed, 5]
            assert stream._random(5, part).integers(1 << 62) == np.random.default_rng(before).integers(1 << 62)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_weight_is_how_often_an_epoch_has_a_pair(kind, small_chunks):
    """Three stretches of the store: 100 pairs 0.3 times, 200 once, 50 two and a half times."""
    store, parts = numbered(350), [(100, 0.3), (200, 1.0), (50, 2.5)]
    stream = BatchStream(store, CONFIGS[kind], IDS, 3, parts)
    assert stream.pairs == 30 + 200 + 125
    epochs = [Counter() for _ in range(3)]
    for number, counts in enumerate(epochs):
        for batch in epoch(stream, number):
            for segments, ids, lengths in (
                (batch.source_segment, batch.source, store.source_lengths),
                (batch.target_segment, batch.target_output, store.target_lengths),
            ):
                numbers, tokens = np.unique(ids[segments > 0] - 10, return_counts=True)
                counts.update(dict(zip(numbers.tolist(), (tokens / lengths[numbers] / 2).tolist(), strict=True)))
        often = np.array([counts[pair] for pair in range(350)])
        assert often[:100].sum() == 30 and set(often[:100]) == {0, 1}
        assert (often[100:300] == 1).all()
        assert often[300:].sum() == 125 and set(often[300:]) == {2, 3}
    assert epochs[0] != epochs[1] != epochs[2]
    whole = [position for _, position in itertools.takewhile(after(1), stream_with_start(stream, 1))]
    again = BatchStream(store, CONFIGS[kind], IDS, 3, parts)
    for position in whole[:: len(whole) // 4]:
        (one, _), (other, _) = (next(each.batches(position)) for each in (stream, again))
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("samples", [1, 3])
def test_the_usual_length_is_the_95th_percentile_of_an_epochs_sources(samples):
    store, config = numbered(samples * 200), dataclasses.replace(CONFIGS["bucketed"], max_length=15)
    lengths = [side.reshape(samples, 200) for side in (store.source_lengths, store.target_lengths)]
    kept = np.maximum(*lengths).max(axis=0) <= 15
    often = np.where(np.arange(200) < 120, 1, 4)[kept]
    every = np.sort(np.concatenate([np.repeat(row[kept], often) for row in lengths[0]]))
    stream = BatchStream(store, config, IDS, 0, [(120, 1.0), (80, 4.0)], samples)
    assert stream.usual_length == every[int(np.ceil(0.95 * len(every))) - 1]
    assert BatchStream(Store.of([np.ones(9)] * 5, [np.ones(3)] * 5), config, IDS, 0).usual_length == 9


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("samples", [1, 2])
def test_the_number_of_batches_in_an_epoch_is_about_right(kind, samples):
    stream = BatchStream(numbered(samples * 2000), CONFIGS[kind], IDS, 3, [(500, 1.5), (1500, 1.0)], samples)
    assert stream.batches_per_epoch == pytest.approx(len(epoch(stream, 0)), rel=0.05)


def test_weights_that_leave_nothing_are_named():
    with pytest.raises(UserError, match=r"weights of \(0.001,\) an epoch has no pair"):
        BatchStream(numbered(300), CONFIGS["bucketed"], IDS, 3, [(300, 0.001)])


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_epoch_draws_one_of_the_samples_of_each_pair(kind, small_chunks):
    """A store of 500 pairs three times over; a pair of which one sample is too long is left out."""
    store, config = numbered(1500), CONFIGS[kind]
    config = dataclasses.replace(config, max_length=30)
    longer = np.maximum(store.source_lengths, store.target_lengths).reshape(3, 500).max(axis=0)
    expected = np.flatnonzero(longer <= 30).tolist()
    assert 300 < len(expected) < 500
    stream = BatchStream(store, config, IDS, 3, samples=3)
    assert (stream.pairs, stream.dropped) == (len(expected), 500 - len(expected))
    epochs = [sorted(itertools.chain(*(members(store, batch) for batch in epoch(stream, number)))) for number in range(4)]
    for entries in epochs:
        assert sorted(entry % 500 for entry in entries) == expected
        shares = np.bincount(np.array(entries) // 500, minlength=3) / len(entries)
        assert (abs(shares - 1 / 3) < 0.1).all()
    drawn = [dict((entry % 500, entry // 500) for entry in entries) for entries in epochs]
    for one, other in itertools.combinations(drawn, 2):
        assert abs(np.mean([one[pair] == other[pair] for pair in expected]) - 1 / 3) < 0.1
    whole = [position for _, position in itertools.takewhile(after(1), stream_with_start(stream, 1))]
    again = BatchStream(store, config, IDS, 3, samples=3)
    for position in whole[:: len(whole) // 4]:
        (one, _), (other, _) = (next(each.batches(position)) for each in (stream, again))
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_weights_of_one_change_nothing():
    store = numbered(300)
    for config in CONFIGS.values():
        streams = BatchStream(store, config, IDS, 3), BatchStream(store, config, IDS, 3, [(100, 1.0), (200, 1.0)])
        for one, other in zip(*(epoch(stream, 0) for stream in streams), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("pairs", [1, 3, 50, 1000])
def test_an_epoch_has_at_most_one_partial_batch(pairs):
    for kind, config in CONFIGS.items():
        stream = BatchStream(numbered(pairs), config, IDS, seed=0)
        for number in range(3):
            full = [bool(batch.source_segment.any(axis=1).all()) for batch in epoch(stream, number)]
            assert full.count(False) <= 1, kind


@pytest.mark.parametrize("kind", CONFIGS)
def test_resuming_anywhere_goes_on_exactly(kind, small_chunks):
    store, count = numbered(700), 0
    stream = BatchStream(store, CONFIGS[kind], IDS, seed=1)
    straight = list(itertools.takewhile(lambda item: item[1] < StreamPosition(2, 0), stream_with_start(stream, 0)))
    assert {position.epoch for _, position in straight} == {0, 1}
    for i, (_, position) in enumerate(straight):
        again = BatchStream(store, CONFIGS[kind], IDS, seed=1).batches(StreamPosition(*map(int, position)))
        for (expected, _), (batch, _) in zip(straight[i : i + 3], again, strict=False):
            assert all(np.array_equal(a, b) for a, b in zip(expected, batch, strict=True))
            count += 1
    assert count > 3 * len(straight) - 6


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_position_that_is_none_is_an_error(kind):
    stream = BatchStream(numbered(100), CONFIGS[kind], IDS, seed=0)
    for position in (StreamPosition(0, 1), StreamPosition(0, 100), StreamPosition(0, -1), StreamPosition(-1, 0)):
        with pytest.raises(ValueError, match="no "):
            next(stream.batches(position))


def test_pairs_too_long_are_dropped_and_counted():
    store = numbered(500)
    longer = np.maximum(store.source_lengths, store.target_lengths)
    stream = BatchStream(store, BatchConfig(tokens=300, row_multiple=4, max_length=12), IDS, seed=0)
    seen = sorted(itertools.chain.from_iterable(members(store, batch) for batch in epoch(stream, 0)))
    assert seen == np.flatnonzero(longer <= 12).tolist()
    assert stream.dropped == (longer > 12).sum() > 0 and stream.pairs == len(seen)
    with pytest.raises(UserError, match=r"batch\.max_length=1 "):
        BatchStream(store, BatchConfig(max_length=1), IDS, seed=0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_one_pass_drops_nothing_whatever_its_length(kind):
    shapes = BatchStream(numbered(1000, longest=20), CONFIGS[kind], IDS, seed=0).shapes
    dev = numbered(120, longest=90)
    batches = list(one_pass(dev, shapes, CONFIGS[kind], IDS))
    seen = list(itertools.chain.from_iterable(members(dev, batch) for batch in batches))
    assert sorted(seen) == list(range(120))
    extra = {batch.source.shape for batch in batches} - {shape[:2] for shape in shapes}
    assert len(extra) <= 1
    for one, other in zip(batches, one_pass(dev, shapes, CONFIGS[kind], IDS), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("kind", "least"), [("bucketed", 0.85), ("packed", 0.95)])
def test_multi30k_batches_are_full(kind, least, tmp_path):
    pairs = read_pairs(str(data_set("multi30k") / "train"), "en", "de")
    tokenizer = Tokenizer.train([*pairs.source, *pairs.target], TokenizerConfig(), tmp_path / "tokenizer")
    store = open_store(pairs, tokenizer, tmp_path / "cache")
    stream = BatchStream(store, BatchConfig(kind=kind, row_multiple=8), tokenizer, seed=0)
    batches = epoch(stream, 0)
    real = sum(np.count_nonzero(segments) for batch in batches for segments in (batch.source_segment, batch.target_segment))
    assert real == len(store.source_ids) + len(store.target_ids)
    assert real / sum(batch.source.size + batch.target_output.size for batch in batches) >= least
    assert len(stream.shapes) <= 12


# The store


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    lines = ["the dog runs", "a cat sleeps here", "der Hund läuft", "eine Katze schläft"] * 20
    return Tokenizer.train(lines, TokenizerConfig(vocab_size=290), tmp_path_factory.mktemp("tokenizer"))


PAIRS = Pairs(["the dog", "", "a cat"], ["der Hund", "x", ""])


def test_the_store_has_the_tokenizers_ids(tokenizer, tmp_path):
    store = open_store(PAIRS, tokenizer, tmp_path)
    assert len(store) == 3 and store.source_ids.dtype == np.uint16 and store.source_offsets.dtype == np.int64
    for i, (source, target) in enumerate(
        zip(tokenizer.encode_source(PAIRS.source), tokenizer.encode_target(PAIRS.target), strict=True)
    ):
        assert store.source_ids[store.source_offsets[i] : store.source_offsets[i + 1]].tolist() == source.tolist()
        assert store.target_ids[store.target_offsets[i] : store.target_offsets[i + 1]].tolist() == target.tolist()
        assert (store.source_lengths[i], store.target_lengths[i]) == (len(source), len(target))


def test_the_store_is_found_again_and_made_anew_when_something_changes(tokenizer, tmp_path, monkeypatch):
    written = []
    write = store_module._write
    monkeypatch.setattr(store_module, "_write", lambda folder, *rest: written.append(folder) or write(folder, *rest))
    open_store(PAIRS, tokenizer, tmp_path)
    open_store(PAIRS, tokenizer, tmp_path)
    assert len(written) == 1
    changed = [
        Pairs(PAIRS.source, ["der Hund", "x", "x"]),
        Pairs(PAIRS.target, PAIRS.source),
        Pairs(["the dog", "a cat", ""], PAIRS.target),
    ]
    for pairs in changed:
        open_store(pairs, tokenizer, tmp_path)
    other = Tokenizer.train(["some other text"] * 20, TokenizerConfig(vocab_size=275), tmp_path / "other")
    open_store(PAIRS, other, tmp_path)
    assert len(set(written)) == len(written) == 5


def test_text_is_passed_over_once_and_once_more_where_the_cache_has_as_many_pairs(tokenizer, tmp_path):
    class Lines(list):
        passes = 0

        def __getitem__(self, index):
            self.passes += isinstance(index, slice)
            return super().__getitem__(index)

    def passes(*sides: list[str]) -> tuple[str, list[int]]:
        pairs = Pairs(*map(Lines, sides))
        return open_store(pairs, tokenizer, tmp_path).fingerprint, [side.passes for side in pairs]

    (tmp_path / ("0" * 32)).mkdir()  # no store, for all that can be told
    first = passes(*PAIRS)
    assert first[1] == [2, 2]
    (tmp_path / ("0" * 32)).rmdir()
    assert passes(*PAIRS) == (first[0], [1, 1])
    assert passes(["a"], ["b"])[1] == [1, 1]
    assert passes(["a"], ["c"])[1] == [2, 2]


def test_the_files_of_a_store_are_what_numpy_saves(tokenizer, tmp_path):
    open_store(PAIRS, tokenizer, tmp_path)
    files = list(tmp_path.rglob("*.npy"))
    assert len(files) == 5
    for file in files:
        np.save(tmp_path / "again.npy", np.load(file))
        assert file.read_bytes() == (tmp_path / "again.npy").read_bytes()


def test_a_store_of_samples_has_the_text_so_many_times(tokenizer, tmp_path):
    sampling = Sampling(3, 0.5)
    store, again = (open_store(PAIRS, tokenizer, tmp_path / name, sampling) for name in "ab")
    others = [open_store(PAIRS, tokenizer, tmp_path / "a", other) for other in (None, Sampling(3, 0.4), Sampling(2, 0.5))]
    assert len({store.fingerprint, *(other.fingerprint for other in others)}) == 4 and store.fingerprint == again.fingerprint
    for ids, offsets, lines in (
        (store.source_ids, store.source_offsets, PAIRS.source),
        (store.target_ids, store.target_offsets, PAIRS.target),
    ):
        assert tokenizer.decode(np.split(ids, offsets[1:-1])) == 3 * lines
    assert np.array_equal(store.source_ids, again.source_ids) and np.array_equal(store.target_ids, again.target_ids)


def test_a_store_half_written_or_damaged_is_not_taken(tokenizer, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(store_module.np, "save", killed)
        with pytest.raises(Killed):
            open_store(PAIRS, tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "0123.partial-xyz").mkdir()
    good = open_store(PAIRS, tokenizer, tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if "partial" not in path.name)
    for name in ("source_ids.npy", "target_offsets.npy", "manifest.json"):
        whole = (folder / name).read_bytes()
        for data in (b"", None, whole[:-2], whole[:-2] + bytes([whole[-2] ^ 4, whole[-1]])):
            (folder / name).unlink()
            if data is not None:
                (folder / name).write_bytes(data)
            again = open_store(PAIRS, tokenizer, tmp_path)
            assert np.array_equal(again.source_ids, good.source_ids) and np.array_equal(
                again.target_offsets, good.target_offsets
            )


def test_many_writers_at_once(tokenizer, tmp_path):
    stores = []
    threads = [threading.Thread(target=lambda: stores.append(open_store(PAIRS, tokenizer, tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 8 and len(list(tmp_path.iterdir())) == 1
    assert len({store.target_ids.tobytes() for store in stores}) == 1


def test_a_cache_that_cannot_be_written_says_so(tokenizer, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"data\.cache_dir"):
        open_store(PAIRS, tokenizer, tmp_path / "file")


def test_the_cache_is_where_the_system_keeps_caches(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "transformer_jax"
    open_store(PAIRS, tokenizer)
    assert (tmp_path / "transformer_jax").is_dir()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "transformer_jax"


# Reading ahead


def gone(before: set[threading.Thread]) -> bool:
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    return not set(threading.enumerate()) - before


def test_prefetch_gives_the_same_and_ends():
    before = set(threading.enumerate())
    for size in (1, 2, 100):
        assert list(prefetch(iter(range(20)), size)) == list(range(20))
    ahead = prefetch([], 2)
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(ahead)
    assert gone(before)


def test_prefetch_works_ahead_but_not_further():
    made = []
    with prefetch((made.append(i) or i for i in itertools.count()), 3) as ahead:
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert made == [0, 1, 2, 3]  # three in the queue, one in hand
        assert next(ahead) == 0


def test_prefetch_raises_where_the_producer_did():
    def producer():
        yield 1
        raise KeyError("broken")

    ahead = prefetch(producer(), 5)
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="broken"):
        next(ahead)
    assert list(ahead) == []


def test_closing_ends_the_thread_and_the_producer():
    before, ended = set(threading.enumerate()), []

    def producer():
        try:
            yield from itertools.count()
        finally:
            ended.append(True)

    ahead = prefetch(producer(), 2)
    assert next(ahead) == 0
    ahead.close()
    ahead.close()
    assert ended == [True] and set(threading.enumerate()) == before and list(ahead) == []
    ahead = prefetch(producer(), 2)
    del ahead
    assert gone(before)


def test_an_open_prefetch_lets_the_interpreter_leave():
    imports = "from itertools import count; from transformer_jax.data.prefetch import prefetch"
    code = f"{imports}; ahead = prefetch(count(), 2); print(next(ahead))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1], check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_the_data_room_imports_no_jax():
    code = "import sys, transformer_jax.data.stream, transformer_jax.data.corpus; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


# Several processes


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("parts", [2, 4])
def test_the_parts_of_a_batch_are_the_batch(kind, parts, small_chunks):
    """Each process makes its own rows only, and all together make what one alone does, from any position on."""
    stream = BatchStream(numbered(300), CONFIGS[kind], IDS, seed=3)
    _, position = next(stream.batches())
    whole = itertools.islice(stream.batches(position), 25)
    mine = [itertools.islice(stream.batches(position, part, parts), 25) for part in range(parts)]
    for (batch, after), *shares in zip(whole, *mine, strict=True):
        assert {position for _, position in shares} == {after}
        for name, array in batch._asdict().items():
            rows = [getattr(share, name) for share, _ in shares]
            assert {len(each) for each in rows} == {len(array) // parts}
            np.testing.assert_array_equal(np.concatenate(rows), array)


def test_a_cache_on_an_object_store_is_copied_to_be_mapped(tmp_path, monkeypatch):
    """With a local folder for the bucket: written there whole, read from there by a machine that has nothing."""
    bucket, used = tmp_path / "bucket", []
    monkeypatch.setattr(store_module, "is_remote", lambda path: str(path) == str(bucket))
    monkeypatch.setattr(store_module, "to_path", lambda path: used.append(path) or store_module.epath.Path(path))
    pairs = Pairs(["a b c d", "e f"], ["d c b a", "f e"])
    tokenizer = Tokenizer.train([*pairs.source, *pairs.target], TokenizerConfig(vocab_size=268), tmp_path / "tokenizer")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first machine"))
    made = open_store(pairs, tokenizer, bucket)
    assert sorted(path.name for path in (bucket / made.fingerprint).iterdir()) == sorted(
        path.name for path in (default_cache_dir() / made.fingerprint).iterdir()
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second machine"))
    monkeypatch.setattr(store_module, "_write", None)
    found = open_store(pairs, tokenizer, bucket)
    np.testing.assert_array_equal(found.source_ids, made.source_ids)
    assert (default_cache_dir() / made.fingerprint).is_dir() and used
