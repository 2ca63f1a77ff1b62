"""Several searches at once, in threads of one process."""

import concurrent.futures
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

__all__ = ["map_side_by_side"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_side_by_side(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    kinds: Sequence[Hashable],
    known: set[Hashable],
    workers: int,
    between: Callable[[], None] | None = None,
    after: Callable[[Result], None] | None = None,
) -> list[Result]:
    """[function(item) for item in items], by so many threads.

    Items of one kind run the same compiled program. As long as a kind is not in `known`, to which it is added, one of its items
    runs alone among them, so that nothing is compiled twice; programs of other kinds are made meanwhile. `between` is called
    before an item begins and `after` with each result, both in this thread; if one of these or an item raises, what runs is
    finished, and nothing else begins.
    """
    results: list[Result | None] = [None] * len(items)
    # The first of each kind first: the more programs are made at a time, the better.
    seen: set[Hashable] = set()
    firsts = [i for i, kind in enumerate(kinds) if not (kind in seen or seen.add(kind))]
    waiting = [*firsts, *sorted(set(range(len(items))) - set(firsts))]
    running: dict[concurrent.futures.Future[Result], int] = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        while waiting or running:
            made = {kinds[i] for i in running.values()} - known
            while len(running) < workers and (free := [i for i in waiting if kinds[i] not in made]):
                if between:
                    between()
                waiting.remove(free[0])
                running[pool.submit(function, items[free[0]])] = free[0]
                made |= {kinds[free[0]]} - known
            done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                i = running.pop(future)
                results[i] = future.result()
                known.add(kinds[i])
                if after:
                    after(results[i])
    return results
