"""Several searches at once: the same results, and no program made twice."""

import threading
import time

import pytest

from transformer_jax.inference.side_by_side import map_side_by_side


def run(items, kinds, known=None, workers=3, seconds=0.01, **calls):
    """The results, and for each kind how many of its items ran at most at a time before it was known, and afterwards."""
    known, lock, running = set() if known is None else known, threading.Lock(), []
    before, afterwards = {}, {}

    def work(item):
        kind = kinds[item]
        with lock:
            running.append(kind)
            most = afterwards if kind in known else before
            most[kind] = max(most.get(kind, 0), running.count(kind))
        time.sleep(seconds)
        with lock:
            running.remove(kind)
        return item * item

    return map_side_by_side(work, items, kinds, known, workers, **calls), before, afterwards


def test_results_stand_where_their_items_stood():
    kinds = [number % 2 for number in range(20)]
    found, before, afterwards = run(range(20), kinds)
    assert found == [number * number for number in range(20)]
    assert set(before.values()) == {1}, "a kind is made by one alone"
    assert max(afterwards.values()) > 1


def test_what_is_known_runs_side_by_side_at_once():
    known = {"a"}
    _, before, afterwards = run(range(6), ["a"] * 6, known)
    assert not before and afterwards["a"] > 1


def test_there_are_no_more_workers_than_asked():
    most, now, lock = 0, 0, threading.Lock()

    def work(item):
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1

    map_side_by_side(work, range(12), list(range(12)), set(), 2)
    assert most == 2


def test_between_and_after_are_called_here_once_for_each_item():
    here, calls = threading.get_ident(), []
    found, *_ = run(
        range(5),
        [0, 0, 1, 1, 1],
        between=lambda: calls.append(("between", threading.get_ident())),
        after=lambda result: calls.append((result, threading.get_ident())),
    )
    assert {thread for _, thread in calls} == {here}
    assert [name for name, _ in calls].count("between") == 5
    assert sorted(result for result, _ in calls if result != "between") == found


@pytest.mark.parametrize("where", ["item", "between", "after"])
def test_after_an_error_nothing_more_begins(where):
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.01)
        if where == "item" and item == 1:
            raise ValueError("item")
        return item

    def raising(*result):
        if len(begun) > 2:
            raise ValueError(where)

    calls = {} if where == "item" else {where: raising}
    with pytest.raises(ValueError, match=where):
        map_side_by_side(work, range(50), [0] * 50, {0}, 2, **calls)
    assert len(begun) < 10


def test_nothing_to_do():
    assert map_side_by_side(abs, [], [], set(), 2) == []
