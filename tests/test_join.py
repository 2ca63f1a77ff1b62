"""Training sources that join pairs (`join=0.2:2-4`), and that exchange their sides (`swap=true`)."""

import dataclasses
import hashlib
import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import arrays_of, assert_same_runs, assert_trees_equal, letters, tiny_config, write_tsv

from transformer_jax.config import BatchConfig, Config, DataConfig, TextSource, TokenizerConfig, from_json, to_json, validate
from transformer_jax.data import demo, sources
from transformer_jax.data import stream as stream_module
from transformer_jax.data.batch_shapes import bucket_of
from transformer_jax.data.corpus import Pairs, iter_pairs, read_pairs
from transformer_jax.data.joining import MOST_JOINED, Join, draw_examples
from transformer_jax.data.source_syntax import swapped, without_join
from transformer_jax.data.sources import parse_sources, read_sources, text_fingerprint
from transformer_jax.data.store import Store
from transformer_jax.data.stream import BatchStream, StreamPosition
from transformer_jax.errors import UserError
from transformer_jax.evaluation.report import _pronouns
from transformer_jax.models.seq2seq import build_model
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.init_from import first_parameters
from transformer_jax.training.loop import train
from transformer_jax.training.prepare import prepare

EOS = 1
IDS = SimpleNamespace(pad_id=9, decoder_start_id=7)
CONFIGS = {
    "bucketed": BatchConfig(tokens=600, row_multiple=4, shapes=5, max_length=60),
    "packed": BatchConfig(kind="packed", tokens=400, row_multiple=4, max_length=60, packed_length=70),
}
SETUPS = {
    "one source": dict(joins=[Join(0.4, 2, 4)]),
    "always three": dict(joins=[Join(1.0, 3, 3)]),
    "some of several sources": dict(
        sources=[(100, 0.5), (150, 1.0), (100, 2.5), (50, 1.0)], joins=[Join(0.5, 2, 3), None, Join(1.0, 2, 6), None]
    ),
    "samples": dict(samples=2, sources=[(120, 2.0), (80, 1.0)], joins=[Join(0.3, 2, 5), None]),
}


def numbered(entries: int, longest: int = 25) -> Store:
    """A store whose entry i is the id 10 + i, 1 to `longest` - 1 times, and EOS."""
    random, arrays = np.random.default_rng(0), []
    for _ in range(2):
        sizes = np.clip(random.lognormal(2.0, 0.6, entries), 2, longest).astype(np.int64)
        ids, ends = np.repeat(np.arange(entries) + 10, sizes).astype(np.int32), np.cumsum(sizes)
        ids[ends - 1] = EOS
        arrays += [ids, np.concatenate([[0], ends])]
    return Store(*arrays)


def examples_of(store: Store, batch) -> list[tuple[int, ...]]:
    """The entries that each example of a batch is made of. Each must be there whole, in the same order on both sides, with EOS
    at the end of the example alone."""
    found = [[], []]
    for side, ids, segments, positions, lengths in (
        (0, batch.source, batch.source_segment, batch.source_position, store.source_lengths),
        (1, batch.target_output, batch.target_segment, batch.target_position, store.target_lengths),
    ):
        for row, segment, position in zip(ids, segments, positions, strict=True):
            for number in range(1, segment.max() + 1):
                tokens = row[segment == number]
                assert position[segment == number].tolist() == list(range(len(tokens)))
                assert tokens[-1] == EOS and EOS not in tokens[:-1]
                entries, start = [], 0
                while start < len(tokens) - 1:
                    entries.append(int(tokens[start]) - 10)
                    size = lengths[entries[-1]] - 1
                    assert (tokens[start : start + size] == tokens[start]).all()
                    start += size
                found[side].append(tuple(entries))
    assert found[0] == found[1]
    first = (batch.target_position == 0) & (batch.target_segment > 0)
    shifted = np.roll(batch.target_output, 1, axis=1)
    expected = np.where(first, IDS.decoder_start_id, np.where(batch.target_segment > 0, shifted, IDS.pad_id))
    assert np.array_equal(batch.target_input, expected)
    return found[0]


def epoch(stream: BatchStream, number: int) -> list:
    """The batches of an epoch and the position before each."""
    items, position = [], StreamPosition(number, 0)
    for batch, following in stream.batches(position):
        items.append((batch, position))
        position = following
        if following.epoch != number:
            return items


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(stream_module, "_CHUNK_PAIRS", 100)
    monkeypatch.setattr(stream_module, "_CHUNK_BATCHES", 2)


def stream_of(setup: str, kind: str, seed: int = 3) -> tuple[Store, BatchStream]:
    store = numbered(400)
    return store, BatchStream(store, CONFIGS[kind], IDS, seed, **SETUPS[setup])


def equal(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("setup", SETUPS)
def test_an_epoch_has_each_pair_as_often_as_without_join(setup, kind):
    store, stream = stream_of(setup, kind)
    options = SETUPS[setup]
    samples = options.get("samples", 1)
    count = len(store) // samples
    counts, weights = zip(*options.get("sources", [(count, 1.0)]), strict=True)
    bounds = np.cumsum([0, *counts])
    epochs = [list(itertools.chain(*(examples_of(store, batch) for batch, _ in epoch(stream, n)))) for n in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    for examples in epochs:
        often = Counter(entry % count for example in examples for entry in example)
        for start, stop, weight in zip(bounds, bounds[1:], weights, strict=False):
            times = [often[pair] for pair in range(start, stop)]
            assert sum(times) == round((stop - start) * weight) and set(times) <= {int(weight), int(np.ceil(weight))}
        assert sum(often.values()) == stream.pairs
        for example in examples:
            source = {int(np.searchsorted(bounds, entry % count, side="right")) - 1 for entry in example}
            join = options["joins"][source.pop()]
            assert not source and len(example) <= (join.most if join else 1)
            for side, limit in zip((store.source_lengths, store.target_lengths), stream.longest, strict=True):
                assert sum(side[entry] - 1 for entry in example) + 1 <= limit <= CONFIGS[kind].max_length


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("setup", SETUPS)
def test_resuming_at_any_batch_goes_on_exactly(setup, kind):
    _, stream = stream_of(setup, kind)
    straight = [*epoch(stream, 0), *epoch(stream, 1)]
    assert [position.offset for _, position in epoch(stream, 1)][1:] == sorted(
        {position.offset for _, position in epoch(stream, 1)} - {0}
    )
    for i, (_, position) in enumerate(straight[:-1]):
        again = stream_of(setup, kind)[1] if i % 10 == 0 else stream
        for (expected, _), (batch, _) in zip(straight[i : i + 2], again.batches(position), strict=False):
            assert equal(expected, batch)
    for offset in (1, stream.pairs - 1):
        if offset not in {position.offset for _, position in epoch(stream, 0)}:
            with pytest.raises(ValueError, match="no batch of this stream begins"):
                next(stream.batches(StreamPosition(0, offset)))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("shards", [2, 4])
def test_the_shards_of_a_batch_are_the_batch(setup, kind, shards):
    _, stream = stream_of(setup, kind)
    whole = itertools.islice(stream.batches(), 40)
    mine = [itertools.islice(stream.batches(shard=shard, shards=shards), 40) for shard in range(shards)]
    for (batch, after), *parts in zip(whole, *mine, strict=True):
        assert {position for _, position in parts} == {after}
        for name, array in batch._asdict().items():
            np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part, _ in parts]), array)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_share_and_the_numbers_of_pairs_are_as_asked(kind):
    """Of short pairs, so that nothing is cut."""
    store, config = numbered(6000, longest=6), dataclasses.replace(CONFIGS[kind], max_length=60)
    stream = BatchStream(store, config, IDS, 0, joins=[Join(0.3, 2, 4)])
    examples = list(itertools.chain(*(examples_of(store, batch) for batch, _ in epoch(stream, 0))))
    sizes = Counter(map(len, examples))
    assert set(sizes) == {1, 2, 3, 4} and stream.joined.cut == 0
    assert sum(sizes[size] for size in (2, 3, 4)) / len(examples) == pytest.approx(0.3, abs=0.03)
    for size in (2, 3, 4):
        assert sizes[size] / len(examples) == pytest.approx(0.1, abs=0.02)
    told = stream.joined
    assert told.examples == pytest.approx(len(examples), rel=0.03)
    assert told.joined == pytest.approx(len(examples) - sizes[1], rel=0.1)
    assert told.pairs - told.joined == len(store) - told.examples


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("setup", SETUPS)
def test_what_a_stream_says_of_an_epoch_is_about_right(setup, kind):
    store, stream = stream_of(setup, kind)
    batches = epoch(stream, 0)
    sources = [
        sum(store.source_lengths[entry] - 1 for entry in example) + 1
        for batch, _ in batches
        for example in examples_of(store, batch)
    ]
    assert stream.joined.examples == pytest.approx(len(sources), rel=0.1)
    assert stream.usual_length == pytest.approx(np.quantile(sources, 0.95), rel=0.15)
    # Few batches, each chunk of packed ones with one that is not full.
    assert stream.batches_per_epoch <= len(batches) + 1 and len(batches) <= 1.35 * stream.batches_per_epoch + 1


@pytest.mark.parametrize("setup", SETUPS)
def test_shapes_do_not_depend_on_the_seed_and_hold_every_epoch(setup):
    for kind in CONFIGS:
        store, stream = stream_of(setup, kind)
        _, other = stream_of(setup, kind, seed=99)
        assert (stream.shapes, stream.longest, stream.joined, stream.usual_length) == (
            other.shapes,
            other.longest,
            other.joined,
            other.usual_length,
        )
        shapes = {shape[:2] for shape in stream.shapes}
        assert all(batch.source.shape in shapes for number in range(20) for batch, _ in epoch(stream, number))
        assert (bucket_of(store.source_lengths, store.target_lengths, stream.shapes) < len(stream.shapes)).all()
    packed, without = (
        BatchStream(store, CONFIGS["packed"], IDS, 0, **SETUPS[setup]),
        BatchStream(store, CONFIGS["packed"], IDS, 0),
    )
    assert packed.shapes[0].rows == without.shapes[0].rows


def test_joined_pairs_are_no_longer_than_what_a_batch_has_room_for():
    """96 tokens are 4 rows of 24: joined pairs are cut there, where `max_length` allows 60."""
    store, config = numbered(300, longest=20), dataclasses.replace(CONFIGS["bucketed"], tokens=96)
    stream = BatchStream(store, config, IDS, 0, joins=[Join(1.0, 4, 4)])
    assert max(stream.longest) <= 24 and stream.joined.cut > 0 and stream.dropped == 0
    seen = sorted(entry for batch, _ in epoch(stream, 0) for example in examples_of(store, batch) for entry in example)
    assert seen == list(range(300))


@pytest.mark.parametrize("seed", range(20))
def test_examples_too_long_are_cut_greedily(seed):
    """Against the definition, for groups of six that stand one after the other."""
    random = np.random.default_rng(seed)
    pairs, limit = int(random.integers(1, 80)), tuple(random.integers(8, 40, 2).tolist())
    lengths = [random.integers(1, 16, pairs), random.integers(1, 16, pairs)]
    expected, too_long = [], 0
    for start in range(0, pairs, 6):
        group = list(range(start, min(start + 6, pairs)))
        parts, content = [], np.zeros(2, int)
        for pair in group:
            tokens = np.array([lengths[0][pair] - 1, lengths[1][pair] - 1])
            if not parts or (content + tokens + 1 > limit).any():
                parts.append([])
                content = np.zeros(2, int)
            parts[-1].append(pair)
            content = content + tokens
        expected += parts
        too_long += len(parts) > 1
    order = random.permutation(pairs)
    examples = draw_examples(order, np.zeros(pairs, int), [Join(1.0, 6, 6)], lengths, limit, random)
    found = np.split(np.arange(pairs), examples.starts[1:-1])
    assert [part.tolist() for part in found] == expected and examples.cut == too_long
    assert examples.pairs.tolist() == order.tolist()
    for side, told in zip(lengths, (examples.source_lengths, examples.target_lengths), strict=True):
        assert told.tolist() == [sum(int(side[pair]) - 1 for pair in part) + 1 for part in expected]


# Without join


RECORDED = {
    ("bucketed", "plain"): "22c5d62e2260b122",
    ("bucketed", "weights"): "76a19883020fd3f8",
    ("bucketed", "samples"): "df44771feb29598d",
    ("bucketed", "both"): "747dc8408b2e3d0f",
    ("packed", "plain"): "5c0a10d03933c43c",
    ("packed", "weights"): "e13c1109f6c0a175",
    ("packed", "samples"): "cd4ed8ddfef065af",
    ("packed", "both"): "0b60a1665991d14a",
}
WITHOUT = {
    "plain": dict(),
    "weights": dict(sources=[(100, 0.3), (200, 1.0), (300, 2.5)]),
    "samples": dict(samples=3),
    "both": dict(sources=[(50, 1.0), (150, 1.5)], samples=3),
}


def digest_of(kind: str, options: dict) -> str:
    """A hash of two epochs of batches and positions, and of what the stream says of itself."""
    numbers, arrays = np.arange(600), []
    for factor in (7, 11):
        sizes = 2 + numbers * factor % 23 + 20 * (numbers % 17 == factor)
        ids, ends = np.repeat(numbers + 10, sizes).astype(np.int32), np.cumsum(sizes)
        ids[ends - 1] = EOS
        arrays += [ids, np.concatenate([[0], ends])]
    lower = dict(tokens=300, max_length=40) if kind == "bucketed" else dict(max_length=40, packed_length=50)
    stream = BatchStream(Store(*arrays), dataclasses.replace(CONFIGS[kind], **lower), IDS, 5, **options)
    facts = stream.shapes, stream.pairs, stream.dropped, stream.usual_length, round(stream.batches_per_epoch, 9)
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=8)
    for batch, position in itertools.takewhile(lambda item: item[1].epoch < 2, stream.batches()):
        digest.update(repr(tuple(map(int, position))).encode())
        for array in batch:
            digest.update(repr((array.shape, str(array.dtype))).encode() + array.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(("kind", "name"), RECORDED)
def test_without_join_batches_are_those_of_before_there_was_any(kind, name, monkeypatch):
    # Which of equal values `argpartition` takes depends on the processor.
    monkeypatch.setattr(np, "argpartition", lambda values, _: np.argsort(values, kind="stable"))
    options = WITHOUT[name]
    assert digest_of(kind, options) == RECORDED[kind, name]
    joins = [None] * len(options.get("sources", [()]))
    assert digest_of(kind, options | {"joins": joins}) == RECORDED[kind, name]


def test_there_is_a_join_for_each_source():
    with pytest.raises(ValueError, match="1 joins for 2 sources"):
        BatchStream(numbered(20), CONFIGS["bucketed"], IDS, 0, [(10, 1.0), (10, 1.0)], joins=[None])


# Tokens


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_joined_tokens_are_those_of_the_joined_lines(algorithm, tmp_path):
    """No piece reaches over a space, so that "A B" has the pieces of A, then those of B."""
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefgh"), random.integers(1, 9))) for _ in range(100)]
    one = [" ".join(random.choice(words, random.integers(1, 9))) for _ in range(300)]
    two = one[::-1]
    tokenizer = Tokenizer.train(one, TokenizerConfig(vocab_size=340, algorithm=algorithm), tmp_path / "tokenizer")
    two[:3] = ["x\u00e4 \u4e2d", "1 000,5 !", "Unseen wordforms, unsegmented"]
    together = [f"{a} {b}" for a, b in zip(one, two, strict=True)]
    for a, b, expected in zip(*map(tokenizer.encode_source, (one, two, together)), strict=True):
        assert [*a[:-1], *b] == expected.tolist()
    # A sampled segmentation is of each word by itself: what is joined is a segmentation of the joined line.
    drawn = zip(tokenizer.sample_source(one, 0.3, 1), tokenizer.sample_source(two, 0.3, 2), strict=True)
    assert tokenizer.decode([[*a[:-1], *b] for a, b in drawn]) == together
    if algorithm == "bpe":  # with no merge left out it is the best one
        for sampled, expected in zip(
            tokenizer.sample_source(together, 1e-300, 1), tokenizer.encode_source(together), strict=True
        ):
            assert sampled.tolist() == expected.tolist()


# The options


def test_the_options_as_text_and_in_python():
    train = (
        "a (join=0.2:2-4), b * 2 (max_ratio=3 join=1:3 tag=<b>), c.tsv (columns=2,1, join=.5:2-100, swap=true), d (swap=false)"
    )
    found = [(source.spec.name, source.spec.join, source.spec.swap) for source in parse_sources(DataConfig(train=train))]
    assert found == [
        ("a", Join(0.2, 2, 4), False),
        ("b", Join(1.0, 3, 3), False),
        ("c.tsv", Join(0.5, 2, 100), True),
        ("d", None, False),
    ]
    source = TextSource("a, b", 2.0, "<x>", join="0.2:2-4", swap=True)
    assert str(source) == '"a, b" * 2.0 (tag=<x> join=0.2:2-4 swap=true)'
    config = from_json(to_json(validate(Config(data=DataConfig(train=[source, TextSource("c")])))))
    (one, other) = (parsed.spec for parsed in parse_sources(config.data))
    assert (one.join, one.swap, one.tag, other.join, other.swap) == (Join(0.2, 2, 4), True, "<x>", None, False)


@pytest.mark.parametrize(
    "value",
    ["0.2", "0.2:", "0:2-4", "1.1:2", "0.2:1", "0.2:1-3", "0.2:4-2", "-0.2:2", "0.2:2-101", "x:2", "0.2:2-4-5", "nan:2"],
)
def test_a_join_that_cannot_be_is_one_line(value):
    with pytest.raises(UserError) as error:
        parse_sources(DataConfig(train=f"a (join={value})"))
    expected = (
        f"data.train: a (join={value}): join={value} should be SHARE:PAIRS or SHARE:LEAST-MOST, a share above 0, 1 at most, "
        f"and a number of pairs from 2 to {MOST_JOINED}, as in 0.2:2-4 or 1:3"
    )
    assert str(error.value) == expected


def test_other_refusals_are_clear(tmp_path):
    table = write_tsv(tmp_path / "t.tsv", ["a"], ["b"])
    with pytest.raises(UserError, match=r"swap=yes should be true or false$"):
        parse_sources(DataConfig(train="a (swap=yes)"))
    with pytest.raises(UserError, match="did you mean join"):
        parse_sources(DataConfig(train="a (jion=0.2:2)"))
    expected = "join is an option of training text; leave it out: a dev or test set has only tag, columns, swap"
    with pytest.raises(UserError, match=expected):
        read_pairs(f"{table} (join=0.2:2-4)", "en", "de")
    assert read_pairs(f"{table} (swap=true tag=<x>)", "en", "de") == Pairs(["<x> b"], ["a"])


def test_join_does_not_change_the_text(tmp_path):
    assert without_join("a  *2, b") == "a  *2, b"
    assert without_join("a (join=0.2:2-4), b * 2 (tag=<b> join=1:3, max_ratio=3)") == "a, b * 2 (tag=<b>, max_ratio=3)"
    assert without_join('"(join=1:2) x.tsv" (join=0.2:2-4 columns=3, 1)') == '"(join=1:2) x.tsv" (columns=3, 1)'
    table = write_tsv(tmp_path / "t.tsv", ["a b"], ["x y"])
    plain, joined, swapped = (
        text_fingerprint(DataConfig(train=f"{table}{end}")) for end in ("", " (join=1:2)", " (swap=true)")
    )
    assert plain == joined != swapped


def joined_config(tmp_path, options: str = "", **batch) -> Config:
    config = tiny_config(tmp_path)
    config.data.train += options
    config.data.cache_dir = str(tmp_path / "cache")
    config.batch = dataclasses.replace(config.batch, max_length=64, packed_length=64, tokens=1024, **batch)
    return config


def test_the_tokenised_text_is_shared_with_runs_without_join_and_the_log_tells_of_joined_pairs(tmp_path, monkeypatch, caplog):
    reads = []
    monkeypatch.setattr(sources, "iter_pairs", lambda *given: reads.append(given[0]) or iter_pairs(*given))
    caplog.set_level("INFO")
    config = joined_config(tmp_path)
    _, plain, _ = prepare(Run.open_or_create(tmp_path / "plain", config))
    assert "joined" not in caplog.text and plain.joined is None
    config.data.train += " (join=0.5:2-4)"
    _, joined, _ = prepare(Run.open_or_create(tmp_path / "joined", config))
    assert len(reads) == 1 and joined.corpus == plain.corpus and joined.pairs == plain.pairs
    assert joined.longest[0] > plain.longest[0]
    counts = joined.joined
    told = f"about {counts.examples} examples, of which {counts.joined} join {counts.pairs} pairs, to at most "
    assert f"joined: an epoch has {told}" in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_a_training_with_join_goes_on_exactly(tmp_path):
    config = joined_config(tmp_path, " (join=0.5:2-4)", kind="packed")
    for name, parts in (("straight", [6]), ("resumed", [3, 6])):
        for steps in parts:
            config.train.steps = steps
            train(config, str(tmp_path / name), verbose=False)
    assert_same_runs(tmp_path / "resumed", tmp_path / "straight", 6)


# Swapped sides


def test_a_list_is_swapped_and_back_again_with_all_its_options():
    text = 'a, "b, c" * 2.50 (tag=<b> join=0.2:2-4), c.tsv * 3 (columns=3, 1), d (swap=false max_ratio=3)'
    once = swapped(text)
    assert once == (
        'a (swap=true), "b, c" * 2.50 (tag=<b> join=0.2:2-4 swap=true), c.tsv * 3 (columns=3, 1 swap=true), '
        "d (max_ratio=3 swap=true)"
    )
    assert swapped(once) == text.replace("swap=false ", "")
    assert _pronouns("demo:test (swap=true)", []) is None


def test_swapped_sides_of_files_and_of_the_demo(tmp_path, monkeypatch):
    (tmp_path / "p.en").write_text("a b\nc\n")
    (tmp_path / "p.de").write_text("x\ny z w\n")
    table = write_tsv(tmp_path / "t.tsv", ["a b", "c"], ["x", "y z w"])

    def read(train: str, **options) -> Pairs:
        pairs, _ = read_sources(DataConfig(train=train, **options))
        return Pairs(*map(list, pairs))

    swapped = Pairs(["x", "y z w"], ["a b", "c"])
    assert read(f"{tmp_path}/p (swap=true)") == read(f"{table} (swap=true)") == swapped
    assert read(f"{table} (columns=2,1 swap=true)") == Pairs(*swapped[::-1]) == read(f"{table} (swap=false)")
    # Filters and the tag come after.
    assert read(f"{table} (swap=true tag=<de> max_words=3)") == Pairs(["<de> x"], ["a b"])
    assert read(f"{table}, {table} (swap=true)").source == ["a b", "c", "x", "y z w"]
    examples = [SimpleNamespace(source="a b", target="x"), SimpleNamespace(source="c", target="y z w")]
    monkeypatch.setattr(demo, "generate", lambda _: examples)
    assert read("demo:train (swap=true)") == swapped


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_both_directions_first_then_one(tmp_path):
    """The recipe: a training on both directions, and one on the direction that is wanted, from its parameters."""
    config = tiny_config(tmp_path)
    plain, config.train.steps = config.data.train, 2
    lines = letters(200, 6)
    config.data.train = f"{plain} (join=0.5:2-3), {plain} (swap=true join=0.5:2-3)"
    pairs, counts = read_sources(config.data)
    backwards = [line[::-1] for line in lines]
    assert set(zip(*pairs, strict=True)) == {*zip(lines, backwards, strict=True), *zip(backwards, lines, strict=True)}
    assert len(counts) == 2
    train(config, str(tmp_path / "both"), verbose=False)
    config.data.train, config.train.init_from = plain, str(tmp_path / "both:latest")
    tokenizer, stream, _ = prepare(Run.open_or_create(tmp_path / "one", config))
    assert tokenizer.fingerprint == Run(tmp_path / "both").tokenizer().fingerprint and stream.pairs == counts[0][0]
    params = first_parameters(config, build_model(config.model, tokenizer.vocab_size), tokenizer)
    assert_trees_equal(params, arrays_of(tmp_path / "both", 2)[0][0])
