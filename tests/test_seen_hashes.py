"""The set of hashes in which duplicates are looked up is Python's set, for any hashes in any blocks."""

import numpy as np
import pytest

from transformer_jax.data import seen_hashes
from transformer_jax.data.seen_hashes import SeenHashes


@pytest.fixture(params=[4, 1000])
def small(request, monkeypatch):
    """Tables that grow again and again, in steps of a few hashes."""
    monkeypatch.setattr(seen_hashes, "_FEWEST", request.param)
    monkeypatch.setattr(seen_hashes, "_AT_ONCE", 7)


@pytest.mark.parametrize("most", [1 << 64, 1 << 10, 1 << 40])  # below 2^32 all hashes have the same place
def test_what_is_new_is_what_no_set_has(small, most):
    random, seen, expected = np.random.default_rng(0), SeenHashes(), set()
    for size in (0, 1, 2, 50, 1, 700, 300, 0, 2000):
        hashes = random.integers(0, most, size, np.uint64)
        hashes[: size // 3] = hashes[size // 2 : size // 2 + size // 3]  # twice in a block
        found = seen.add(hashes)
        for number, is_new in zip(np.maximum(hashes, 1).tolist(), found.tolist(), strict=True):
            assert is_new == (number not in expected)
            expected.add(number)
        assert len(seen) == len(expected)


def test_the_largest_hash_has_the_last_place_and_what_finds_it_taken_begins_again(small):
    seen, largest = SeenHashes(), (1 << 64) - 1
    hashes = np.array([largest, largest - 1, 0, 1], np.uint64)
    assert seen.add(hashes).tolist() == [True, True, True, False]  # 0 counts as 1
    assert not seen.add(hashes).any() and len(seen) == 3


def test_memory_is_in_proportion():
    seen = SeenHashes()
    for start in range(0, 1_000_000, 20_000):
        seen.add(np.random.default_rng(start).integers(0, 1 << 64, 20_000, np.uint64))
    assert 11 < seen._table.nbytes / len(seen) < 17.5
