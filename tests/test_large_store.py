"""What 100 million pairs need: an order of four bytes a pair, lengths by block, checksums compared while they are read."""

import itertools
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import quick_config

from transformer_jax.config import BatchConfig
from transformer_jax.data import batch_plans, epoch_order, length_counts
from transformer_jax.data import store as store_module
from transformer_jax.data import stream as stream_module
from transformer_jax.data.batch_shapes import bucket_of
from transformer_jax.data.epoch_order import EpochOrder, shuffle, sort_by_key
from transformer_jax.data.length_counts import count_kinds, merge_kinds
from transformer_jax.data.store import Store, load_store
from transformer_jax.data.stream import BatchStream, StreamPosition
from transformer_jax.errors import UserError
from transformer_jax.storage import background_check
from transformer_jax.storage.checksums import MANIFEST, find_damage, write_manifest
from transformer_jax.training.loop import train

IDS = SimpleNamespace(pad_id=0, decoder_start_id=3)
CONFIGS = {
    "bucketed": BatchConfig(tokens=300, row_multiple=4, shapes=5, max_length=40),
    "packed": BatchConfig(kind="packed", tokens=400, row_multiple=4, max_length=40, packed_length=50),
}
ARRAYS = ("source_ids", "source_offsets", "target_ids", "target_offsets")


def random_store(pairs: int, seed: int = 0) -> Store:
    random, arrays = np.random.default_rng(seed), []
    for _ in range(2):
        ends = np.cumsum(np.clip(random.lognormal(2.2, 0.5, pairs), 1, 50).astype(np.int64))
        arrays += [random.integers(4, 1000, int(ends[-1])).astype(np.uint16), np.concatenate([[0], ends])]
    return Store(*arrays)


def an_epoch(stream: BatchStream, offset: int = 0) -> list:
    items = []
    for batch, after in stream.batches(StreamPosition(0, offset)):
        items.append((batch, after))
        if after.epoch:
            return items
    raise AssertionError("the stream is endless")


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        a_after == b_after and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        for (a, a_after), (b, b_after) in zip(one, other, strict=True)
    )


# The order of an epoch


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("weights", [(1.0,), (2.0, 0.3, 1.7)])
def test_the_order_is_numpys_permutation_of_the_pairs_in_half_of_its_memory(weights, samples):
    """Runs resume in the middle of an epoch whose order an older version has drawn: of 64-bit numbers, all at once."""
    kept = np.random.default_rng(1).random(30_000) < 0.9
    sources = list(zip(np.diff([0, 20_000, 20_001, 30_000]) if len(weights) > 1 else [30_000], weights, strict=True))
    order = EpochOrder(kept, sources, samples)
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    drawn = order.draw(one)
    every, often = np.flatnonzero(kept), np.repeat(weights, [count for count, _ in sources])[kept]
    parts = np.split(every, np.searchsorted(every, np.cumsum([count for count, _ in sources])[:-1]))
    more = [
        other.choice(part, round(len(part) * (weight % 1)), replace=False)
        for part, weight in zip(parts, weights, strict=True)
        if weight % 1
    ]
    expected = other.permutation(np.concatenate([np.repeat(every, often.astype(np.int64)), *more]))
    if samples > 1:
        expected = expected + len(kept) * other.integers(samples, size=len(expected))
    assert drawn.dtype == np.int32 and order.pairs == len(expected)
    assert np.array_equal(drawn, expected) and one.integers(1 << 62) == other.integers(1 << 62)


def test_bucketed_batches_are_cut_of_that_order_shape_by_shape():
    store, config = random_store(3000), CONFIGS["bucketed"]
    stream = BatchStream(store, config, IDS, seed=9)
    lengths = store.source_lengths, store.target_lengths
    random = np.random.default_rng([9, 2, 0, 0])
    order = random.permutation(np.flatnonzero(np.maximum(*lengths) <= config.max_length))
    expected, left = [], order[:0]
    for number, shape in enumerate(stream.shapes):
        members = np.concatenate([left, order[bucket_of(*lengths, stream.shapes)[order] == number]])
        full = len(members) // shape.rows * shape.rows
        expected += np.split(members[:full], range(shape.rows, full, shape.rows)) if full else []
        left = members[full:]
    expected += [left] if len(left) else []
    turns = random.permutation(len(expected))
    assert [plan.pairs.tolist() for plan in stream._plans(2, 0)] == [expected[turn].tolist() for turn in turns]


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_size_of_blocks_changes_nothing(kind, monkeypatch):
    store, sources = random_store(2000), [(700, 1.5), (300, 2.0)]
    whole = BatchStream(store, CONFIGS[kind], IDS, 3, sources, 2)
    expected = an_epoch(whole)
    for module in (length_counts, epoch_order, batch_plans):
        monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(length_counts, "_WAITING", 3)
    for table in (1 << 22, 0):
        monkeypatch.setattr(length_counts, "_TABLE", table)
        by_block = BatchStream(store, CONFIGS[kind], IDS, 3, sources, 2)
        assert (by_block.shapes, by_block.usual_length) == (whole.shapes, whole.usual_length)
        assert same(an_epoch(by_block), expected)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_large_epoch_has_each_pair_once_in_an_order_of_its_own_and_resumes(kind, monkeypatch):
    store = random_store(2000)
    of_numpy = np.concatenate([plan.pairs for plan in BatchStream(store, CONFIGS[kind], IDS, seed=3)._plans(0, 0)])
    monkeypatch.setattr(epoch_order, "NUMPY_ORDER", 100)
    stream = BatchStream(store, CONFIGS[kind], IDS, seed=3)
    orders = [np.concatenate([plan.pairs for plan in stream._plans(number, 0)]) for number in (0, 0, 1)]
    kept = np.flatnonzero(np.maximum(store.source_lengths, store.target_lengths) <= 40)
    assert all(np.array_equal(np.sort(order), kept) for order in orders)
    assert np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], of_numpy)
    straight = an_epoch(stream)
    for begun in (1, len(straight) // 2, len(straight) - 1):
        again = an_epoch(BatchStream(store, CONFIGS[kind], IDS, seed=3), straight[begun - 1][1].offset)
        assert same(again, straight[begun:])


def test_in_a_large_epoch_every_pair_is_equally_likely_everywhere(monkeypatch):
    """Each of the 24 orders of four items comes as often as the others: chi squared with 23 degrees of freedom."""
    monkeypatch.setattr(epoch_order, "NUMPY_ORDER", 0)
    monkeypatch.setattr(epoch_order, "_DIGITS", 3)
    random, counts = np.random.default_rng(0), dict.fromkeys(itertools.permutations(range(4)), 0)
    for _ in range(2400):
        counts[tuple(shuffle(np.arange(4), random).tolist())] += 1
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 56  # p = 0.0001


def test_sorting_by_key_is_stable(monkeypatch):
    monkeypatch.setattr(epoch_order, "BLOCK", 100)
    keys = np.random.default_rng(0).integers(0, 300, 1234).astype(np.uint16)
    items, counts = sort_by_key(np.arange(1234), keys, 301)
    assert np.array_equal(items, np.argsort(keys, kind="stable")) and np.array_equal(counts, np.bincount(keys, minlength=301))
    assert len(sort_by_key(np.arange(0), keys[:0], 3)[0]) == 0


def test_kinds_are_counted_whatever_their_lengths():
    random = np.random.default_rng(0)
    for longest in (5, 1_000_000_000):
        source, target = random.integers(1, longest, (2, 500))
        kinds = merge_kinds([count_kinds(source, target), count_kinds(source[:9], target[:9])], [2, 3])
        found = dict(zip(zip(*(side.tolist() for side in kinds[:2]), strict=True), kinds.counts.tolist(), strict=True))
        expected: dict = {}
        for pair, count in zip(zip(source.tolist(), target.tolist(), strict=True), [5] * 9 + [2] * 491, strict=True):
            expected[pair] = expected.get(pair, 0) + count
        assert found == expected


@pytest.mark.parametrize(("kind", "most"), [("bucketed", 13), ("packed", 11)])
def test_a_start_takes_few_bytes_a_pair(kind, most, monkeypatch):
    """NumPy's arrays up to the first batch, of 300,000 pairs; above NUMPY_ORDER there are two orders for a while."""
    for module in (length_counts, epoch_order, batch_plans):
        monkeypatch.setattr(module, "BLOCK", 1 << 12)  # so that what does not grow with the corpus is little
    monkeypatch.setattr(stream_module, "_CHUNK_PAIRS", 1 << 10)
    monkeypatch.setattr(stream_module, "_CHUNK_BATCHES", 2)
    monkeypatch.setattr(epoch_order, "NUMPY_ORDER", 1000)
    pairs = 300_000
    offsets = np.concatenate([[0], np.cumsum(np.random.default_rng(0).integers(2, 9, pairs))])
    store = Store(*[np.zeros(int(offsets[-1]), np.uint16), offsets] * 2)
    tracemalloc.start()
    try:
        next(BatchStream(store, BatchConfig(kind=kind, max_length=20, packed_length=20), IDS, seed=0).batches())
        assert tracemalloc.get_traced_memory()[1] < most * pairs
    finally:
        tracemalloc.stop()


# Checksums while it is read


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A store whose arrays are compared with their checksums on a thread."""
    monkeypatch.setattr(store_module, "_CHECKED_AT_ONCE", 0)
    store, folder = random_store(500), tmp_path / ("0" * 32)
    folder.mkdir()
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(store, name))
    write_manifest(folder)
    return folder


def flip(file: Path, place: int, bit: int = 1) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= bit
    file.write_bytes(data)


def test_a_whole_store_is_read_while_it_is_checked(folder):
    store = load_store(folder)
    assert store.check and load_store(folder, at_once=True).check is None
    stream = BatchStream(store, CONFIGS["bucketed"], IDS, seed=0)
    assert same(an_epoch(stream), an_epoch(BatchStream(random_store(500), CONFIGS["bucketed"], IDS, seed=0)))
    stream.require_whole()
    assert not find_damage(folder)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    ("name", "place", "bit"), [("target_ids", -3, 1), ("source_offsets", -160, 1), ("target_offsets", -154, 8)]
)
def test_damage_ends_the_stream_with_an_error_and_the_store_is_not_taken_again(folder, kind, name, place, bit):
    flip(folder / f"{name}.npy", place, bit)
    with pytest.raises(UserError, match=rf"{folder}: {name}\.npy is damaged, .*; start the same command again"):
        list(
            itertools.takewhile(
                lambda item: item[1].epoch < 2, BatchStream(load_store(folder), CONFIGS[kind], IDS, 0).batches()
            )
        )
    assert not (folder / MANIFEST).exists() and load_store(folder) is None


@pytest.mark.parametrize("name", ARRAYS)
def test_no_damaged_header_is_followed(folder, name):
    """Each byte of the header that says something: the store is not taken, or its damage is told."""
    file = folder / f"{name}.npy"
    whole, manifest = file.read_bytes(), (folder / MANIFEST).read_bytes()
    for place in range(len(whole[:128].rstrip(b" \n"))):
        file.write_bytes(whole)
        (folder / MANIFEST).write_bytes(manifest)
        flip(file, place, 1 << place % 7)
        store = load_store(folder)
        if store:
            with pytest.raises(UserError, match=f"{name}.npy is damaged"):
                store.require_whole(wait=True)


def test_other_files_are_compared_before_they_are_read(folder):
    np.save(folder / "words.npy", np.arange(9))
    write_manifest(folder)
    assert load_store(folder)
    flip(folder / "words.npy", -1)
    assert load_store(folder) is None
    (folder / "words.npy").unlink()
    assert load_store(folder) is None


def test_what_cannot_be_compared_does_not_pass_for_whole(folder, monkeypatch):
    def fail(_):
        raise MemoryError("too little")

    monkeypatch.setattr(background_check, "find_damage", fail)
    store = load_store(folder)
    with pytest.raises(
        UserError, match=r"cannot be compared with its checksums \(MemoryError: too little\).*remove this folder"
    ):
        store.require_whole(wait=True)
    assert (folder / MANIFEST).exists()


def test_an_error_comes_with_the_next_batch_once_damage_is_found(folder, monkeypatch):
    found = threading.Event()
    monkeypatch.setattr(background_check, "find_damage", lambda _: found.wait(30) and "target_ids.npy is damaged")
    store = load_store(folder)
    batches = BatchStream(store, CONFIGS["packed"], IDS, 0).batches()
    next(batches)
    found.set()
    store.check._thread.join()
    with pytest.raises(UserError, match="damaged"):
        next(batches)


@pytest.mark.slow
def test_nothing_learned_from_a_damaged_store_is_saved(tmp_path, monkeypatch):
    """A training shorter than the comparison waits for it; the same command then begins anew, with the text tokenised again."""
    monkeypatch.setattr(store_module, "_CHECKED_AT_ONCE", 0)
    config = quick_config(tmp_path)
    config.data.cache_dir = str(tmp_path / "cache")
    expected = train(config, str(tmp_path / "one"), verbose=False)
    largest = max((tmp_path / "cache").rglob("source_ids.npy"), key=lambda path: path.stat().st_size)
    flip(largest, -3)
    with pytest.raises(UserError, match=r"source_ids\.npy is damaged"):
        train(config, str(tmp_path / "two"), verbose=False)
    assert not list((tmp_path / "two" / "checkpoints").glob("[0-9]*"))
    assert train(config, str(tmp_path / "two"), verbose=False).score == expected.score
