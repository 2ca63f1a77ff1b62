"""Shapes fitted to a corpus, and batches that hold exactly its sentences."""

import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from transformer_jax.config import BatchConfig
from transformer_jax.data.batch_shapes import Shape, bucket_of, fit_packed_shape, fit_shapes
from transformer_jax.data.batching import Batch, bucketed_batch, pack, packed_batch, pad_rows
from transformer_jax.errors import UserError
from transformer_jax.runs.run_folder import Run

PAD, START, EOS = 9, 7, 8  # none of them 0: nothing may rely on it


def lengths(pairs: int, longest: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    source = np.clip(random.lognormal(2.5, 0.6, pairs), 1, longest).astype(np.int64)
    return source, np.clip(source * random.normal(1.05, 0.2, pairs) + 1, 1, longest).astype(np.int64)


def make_store(source_lengths: np.ndarray, target_lengths: np.ndarray) -> SimpleNamespace:
    random, arrays = np.random.default_rng(1), {}
    for side, sizes in (("source", source_lengths), ("target", target_lengths)):
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        ids = random.integers(10, 60_000, offsets[-1]).astype(np.uint16)
        ids[offsets[1:] - 1] = EOS
        arrays |= {f"{side}_ids": ids, f"{side}_offsets": offsets}
    return SimpleNamespace(**arrays)


def sentences(store, batch) -> list[tuple[list[int], list[int]]]:
    """The pairs of a batch, each checked for everything the contract says of its row."""
    found = []
    for row in zip(*batch, strict=True):
        source, source_segment, source_position, target_input, target, target_segment, target_position = row
        assert (source[source_segment == 0] == PAD).all() and (target[target_segment == 0] == PAD).all()
        assert (target_input[target_segment == 0] == PAD).all()
        assert source_segment.max() == target_segment.max()
        for segment in range(1, source_segment.max() + 1):
            (left,), (right,) = np.nonzero(source_segment == segment), np.nonzero(target_segment == segment)
            for where, position in ((left, source_position), (right, target_position)):
                assert position[where].tolist() == list(range(len(where)))
                assert where.tolist() == list(range(where[0], where[0] + len(where)))
            assert target_input[right].tolist() == [START, *target[right][:-1].tolist()]
            found.append((source[left].tolist(), target[right].tolist()))
    return found


def pair(store, i: int) -> tuple[list[int], list[int]]:
    return tuple(ids[offsets[i] : offsets[i + 1]].tolist() for ids, offsets in (
        (store.source_ids, store.source_offsets), (store.target_ids, store.target_offsets)
    ))  # fmt: skip


def positions(shapes: list[Shape], source: np.ndarray, target: np.ndarray) -> int:
    sides = np.array([shape.source_length + shape.target_length for shape in shapes])
    return int(sides[bucket_of(source, target, shapes)].sum())


@pytest.mark.parametrize("seed", range(5))
def test_shapes_are_a_chain_within_the_budget(seed):
    source, target = lengths(3000, seed=seed)
    config = BatchConfig(tokens=1000, row_multiple=4, shapes=7)
    shapes = fit_shapes(source, target, config)
    assert 1 < len(shapes) <= config.shapes
    for shape in shapes:
        longer = max(shape.source_length, shape.target_length)
        assert shape.rows % 4 == 0 and shape.rows * longer <= config.tokens < (shape.rows + 4) * longer
    for one, other in itertools.pairwise(shapes):
        assert one.source_length <= other.source_length and one.target_length <= other.target_length and one.rows >= other.rows
    assert shapes[-1][1:] == (source.max(), target.max())
    assert bucket_of(source, target, shapes).max() == len(shapes) - 1


@pytest.mark.parametrize("seed", range(20))
def test_the_fit_equals_brute_force(seed):
    source, target = lengths(30, longest=6, seed=seed)
    config = BatchConfig(tokens=1000, row_multiple=1, shapes=3)
    cells = list(itertools.product(np.unique(source), np.unique(target)))
    chains = [
        [Shape(1, *a), Shape(1, *b), Shape(1, int(source.max()), int(target.max()))]
        for a, b in itertools.product(cells, cells)
        if a[0] <= b[0] and a[1] <= b[1]
    ]
    best = min(positions(chain, source, target) for chain in chains)
    assert positions(fit_shapes(source, target, config), source, target) == best


@pytest.mark.parametrize("longest", [60, 400])
def test_the_fit_is_better_than_edges_of_equal_count(longest):
    source, target = lengths(20_000, longest)
    config = BatchConfig(tokens=4096, row_multiple=8, shapes=8)
    edges = [np.quantile(side, np.arange(1, 9) / 8, method="higher").astype(int) for side in (source, target)]
    equal = [Shape(1, int(s), int(t)) for s, t in zip(*edges, strict=True)]
    started = time.perf_counter()
    fitted = fit_shapes(source, target, config)
    assert time.perf_counter() - started < 5
    assert positions(fitted, source, target) < positions(equal, source, target)


def test_more_shapes_are_never_worse_and_one_is_allowed():
    source, target = lengths(500)
    costs = [positions(fit_shapes(source, target, BatchConfig(row_multiple=1, shapes=k)), source, target) for k in range(1, 9)]
    assert costs == sorted(costs, reverse=True)
    assert len(fit_shapes(np.array([5]), np.array([4]), BatchConfig())) == 1


def test_a_budget_too_small_says_what_to_change():
    with pytest.raises(
        UserError, match=r"batch\.tokens=4096 .* raise it to 6400 or lower batch\.max_length to 64 or batch\.row_mul"
    ):
        fit_shapes(np.array([5, 100]), np.array([4, 90]), BatchConfig())
    with pytest.raises(UserError, match=r"batch\.tokens=50 .* raise it to 6400$"):
        fit_shapes(np.array([5, 100]), np.array([4, 90]), BatchConfig(tokens=50))
    with pytest.raises(UserError, match=r"batch\.packed_length=64 should be at least .* 90"):
        fit_packed_shape(np.array([5]), np.array([90]), BatchConfig(packed_length=64))


@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_bucketed_rows_are_the_sentences(count):
    store = make_store(*lengths(50, longest=12))
    chosen = np.random.default_rng(0).permutation(50)[:count]
    batch = bucketed_batch(store, chosen, Shape(8, 12, 13), PAD, START)
    assert {field.dtype for field in batch} == {np.dtype(np.int32)}
    assert [field.shape for field in batch] == [(8, 12)] * 3 + [(8, 13)] * 4
    assert sentences(store, batch) == [pair(store, i) for i in chosen]
    assert not batch.source_segment[count:].any()


def test_what_does_not_fit_is_an_error():
    store = make_store(np.array([5, 3]), np.array([4, 4]))
    for shape in (Shape(1, 9, 9), Shape(2, 4, 9), Shape(2, 9, 3)):
        with pytest.raises(ValueError, match="do not fit"):
            bucketed_batch(store, np.arange(2), shape, PAD, START)
    for shape in (Shape(1, 9, 9), Shape(2, 4, 9), Shape(2, 9, 3)):
        with pytest.raises(ValueError, match="do not fit"):
            packed_batch(store, np.arange(2), np.arange(2), shape, PAD, START)
    with pytest.raises(ValueError, match="do not fit"):
        pack(np.array([5]), np.array([4]), Shape(1, 4, 9))


@pytest.mark.parametrize("seed", range(5))
def test_packing_fills_rows_and_never_overfills(seed):
    source, target = lengths(4000, seed=seed)
    shape = fit_packed_shape(source, target, BatchConfig(packed_length=128, row_multiple=8))
    assert max(shape[1:]) == 128 and shape.rows * 128 <= 4096
    rows = pack(source, target, shape)
    used = np.bincount(rows, source), np.bincount(rows, target)
    assert used[0].max() <= shape.source_length and used[1].max() <= shape.target_length and used[0].min() > 0
    assert (source.sum() + target.sum()) / (len(used[0]) * (shape.source_length + shape.target_length)) > 0.95


def test_packing_odd_corpora():
    shape = Shape(4, 8, 8)
    assert len(set(pack(np.full(5, 8), np.full(5, 1), shape))) == 5  # source full, target nearly empty
    assert len(set(pack(np.array([8, 8, 1, 1]), np.array([1, 1, 8, 8]), shape))) == 4  # nothing goes together
    assert pack(np.zeros(0, int), np.zeros(0, int), shape).tolist() == []
    assert len(set(pack(np.full(64, 1), np.full(64, 1), shape))) == 8


def test_packed_rows_unpack_to_exactly_the_sentences():
    source, target = lengths(200, longest=20)
    store, shape = make_store(source, target), Shape(200, 40, 42)
    rows = pack(source, target, shape)
    order = np.argsort(rows, kind="stable")
    batch = packed_batch(store, order, rows[order], shape, PAD, START)
    assert {field.dtype for field in batch} == {np.dtype(np.int32)}
    assert [field.shape for field in batch] == [(200, 40)] * 3 + [(200, 42)] * 4
    assert sentences(store, batch) == [pair(store, i) for i in order]
    assert batch.source_segment.max() > 2


def test_one_sentence_a_row_is_the_same_either_way():
    store, shape, chosen = make_store(*lengths(6, longest=9)), Shape(6, 9, 9), np.array([4, 1, 3])
    one, other = bucketed_batch(store, chosen, shape, PAD, START), packed_batch(store, chosen, np.arange(3), shape, PAD, START)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_pad_rows():
    padded = pad_rows([np.array([5, 8]), np.array([], int)], 3, PAD)
    assert padded.dtype == np.int32 and padded.tolist() == [[5, 8, PAD], [PAD] * 3]


def test_a_batch_of_pairs_of_lines():
    tokenizer = Run(Path(__file__).parent / "runs" / "9f7c919").tokenizer()
    sources, targets = ["The dog is hungry.", "We read."], ["Der Hund ist hungrig.", "Wir lesen."]
    batch = Batch.of(iter(sources), targets, tokenizer)
    for row, ids in zip(batch.source, tokenizer.encode_source(sources), strict=True):
        assert row.tolist() == [*ids, *[tokenizer.pad_id] * (len(row) - len(ids))]
    for row, ids in zip(batch.target_input, tokenizer.encode_target(targets), strict=True):
        assert row[: len(ids)].tolist() == [tokenizer.decoder_start_id, *ids[:-1]]
    assert batch.source_segment.sum() == sum(map(len, tokenizer.encode_source(sources)))
    with pytest.raises(UserError, match="targets: 1 for 2 sources; expected one for each"):
        Batch.of(sources, targets[:1], tokenizer)
    with pytest.raises(UserError, match="one pair of lines or more"):
        Batch.of([], [], tokenizer)
    with pytest.raises(TypeError, match="sources should be a list of strings, not the string"):
        Batch.of(sources[0], targets, tokenizer)
