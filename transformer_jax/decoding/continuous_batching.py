"""Continuous batching: the loop of every search, in which a waiting sentence takes the slot of one that is done.

`search_loop` knows all sentences from the start and is one program. A server's `Bank` of slots stays open: a few steps are one
program, sentences come and go in between.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = [
    "Bank",
    "DecodingQueue",
    "SearchParts",
    "admit",
    "at_once",
    "empty_bank",
    "run_bank",
    "search_loop",
    "single_batch",
]


class DecodingQueue(NamedTuple):
    """The sentences of a search: `count` of them, of which `slots` are decoded at a time.

    `begin(numbers int32 [R], index)` gives what the sentences of these numbers start from, where `index` is the loop's index at
    their first step: their cache (leaves [R * hypotheses, ...]), their maximum lengths in tokens int32 [R], and their memory
    (leaves [R, ...] or None).
    """

    begin: Callable[[Array, Array], tuple[Any, Array, Any]]
    count: int
    real_count: Array  # int32 []: sentences from this number on only fill the shape; they never begin, their results are void
    slots: int
    refill_size: int  # R: how many sentences begin at a time; it divides `slots` and `count`


def single_batch(cache: Any, max_length: Array, memory: Any = None) -> DecodingQueue:
    """A queue in which all sentences begin at the first step: one for each of `max_length` int32 [B]. Cache and memory are as
    `DecodingQueue.begin` returns them."""
    batch = len(max_length)
    begun = cache, jnp.asarray(max_length, jnp.int32), memory
    return DecodingQueue(lambda numbers, index: begun, batch, jnp.int32(batch), batch, batch)


at_once = single_batch  # the name of earlier versions


class SearchParts(NamedTuple):
    """A search, as `search_loop` and a `Bank` take it."""

    queue: DecodingQueue
    begin: Callable[[Array, Array], Any]  # (numbers, index) -> the state of sentences before their first step
    advance: Callable[[Array, Any], Any]  # (index, state) -> the state after one step of all slots
    done: Callable[..., Array]  # of a state, bool [B]; or of a state and how many translations are wanted, int32 [B]
    result: Callable[[Any], Any]  # of a state, leaves [B, ...]
    so_far: Callable[[Any], Array]  # of a state: the tokens of the best hypothesis that is not finished, int32 [B, T]


class LoopState(NamedTuple):
    """The state of `search_loop` between two of its steps."""

    index: Array  # int32 []: steps so far
    next: Array  # int32 []: the number of the first sentence that waits
    number: Array  # int32 [slots]: the number of the sentence in each slot, or their count where there is none
    state: Any
    results: Any


def search_loop(parts: SearchParts) -> Any:
    """`parts.result` of each sentence once it is `done`; leaves [queue.count, ...].

    `begin(numbers, index)` is the state of sentences before their first step, `advance(index, state)` one step of all slots,
    which are independent of each other. `index` counts the steps of the loop and is the same for all slots, so that the first
    step of a sentence may have any index. As soon as `refill_size` slots are free, as many sentences begin in them. A step
    costs the same whether slots are free or not, and few are until the last sentence has begun:

        step 9      a . c .      a and c are decoded, `.` is free; e, f and g are waiting, two begin at a time
        step 10     a e c f
    """
    queue, begin, advance, done, result, _ = parts
    numbers = jnp.arange(queue.refill_size)
    begin = jax.jit(begin, inline=True)  # traced once
    state_shape = jax.eval_shape(begin, numbers, jnp.int32(0))
    empty = _empty(state_shape, queue)
    no_results = jax.tree.map(
        lambda leaf: jnp.zeros((queue.count, *leaf.shape[1:]), leaf.dtype), jax.eval_shape(result, state_shape)
    )

    def free(loop: LoopState) -> Array:
        return (loop.number == queue.count) | done(loop.state)

    def can_begin(loop: LoopState) -> Array:
        return (loop.next < queue.real_count) & (jnp.sum(free(loop)) >= queue.refill_size)

    def with_results(loop: LoopState, slots: Array) -> Any:
        """The results, with those of the sentences in these slots; a slot without a sentence adds none."""
        return jax.tree.map(
            lambda leaf, of_slots: leaf.at[loop.number[slots]].set(of_slots[slots], mode="drop"),
            loop.results,
            result(loop.state),
        )

    def refill(loop: LoopState) -> LoopState:
        slots = jnp.argsort(~free(loop), stable=True)[: queue.refill_size]
        new = begin(loop.next + numbers, loop.index)
        return loop._replace(
            next=loop.next + queue.refill_size,
            number=loop.number.at[slots].set(loop.next + numbers),
            state=jax.tree.map(lambda leaf, rows: _with_slots(leaf, slots, rows, queue.slots), loop.state, new),
            results=with_results(loop, slots),
        )

    def step(loop: LoopState) -> LoopState:
        return loop._replace(index=loop.index + 1, state=advance(loop.index, loop.state))

    def refill_and_step(loop: LoopState) -> LoopState:
        loop = lax.while_loop(can_begin, refill, loop)
        return lax.while_loop(lambda loop: ~can_begin(loop) & ~jnp.all(free(loop)), step, loop)

    start = LoopState(jnp.int32(0), jnp.int32(0), jnp.full(queue.slots, queue.count), empty, no_results)
    loop = lax.while_loop(lambda loop: (loop.next < queue.real_count) | ~jnp.all(free(loop)), refill_and_step, start)
    return with_results(loop, jnp.arange(queue.slots))


class Bank(NamedTuple):
    """The slots of a search that stays open, between two of its steps."""

    index: Array  # int32 []: steps so far
    state: Any


def empty_bank(parts: SearchParts) -> Bank:
    """A bank of `parts.queue.slots` slots without sentences."""
    numbers = jnp.arange(parts.queue.refill_size)
    return Bank(jnp.int32(0), _empty(jax.eval_shape(parts.begin, numbers, jnp.int32(0)), parts.queue))


def admit(parts: SearchParts, bank: Bank, slots: Array) -> Bank:
    """The bank after the sentences of the queue have begun in these slots, int32 [queue.count]; one whose slot is not in
    0 .. queue.slots - 1 does not begin."""
    new = parts.begin(jnp.arange(parts.queue.count), bank.index)
    state = jax.tree.map(lambda leaf, rows: _with_slots(leaf, slots, rows, parts.queue.slots), bank.state, new)
    return bank._replace(state=state)


def run_bank(parts: SearchParts, bank: Bank, wanted: Array, steps: Array, enough: Array) -> tuple[Bank, Array]:
    """The bank after at most `steps` steps, fewer where `enough` of its sentences, or all, are done before; and which slots
    have these, bool [slots]. `wanted`, int32 [slots], is how many translations each sentence should have, 0 for a free slot."""
    occupied = wanted > 0

    def done(bank: Bank) -> Array:
        return occupied & parts.done(bank.state, jnp.maximum(wanted, 1))

    def goes_on(loop: tuple[Bank, Array]) -> Array:
        bank, taken = loop
        return (taken < steps) & (jnp.sum(done(bank)) < jnp.minimum(enough, jnp.sum(occupied)))

    def step(loop: tuple[Bank, Array]) -> tuple[Bank, Array]:
        bank, taken = loop
        return Bank(bank.index + 1, parts.advance(bank.index, bank.state)), taken + 1

    bank, _ = lax.while_loop(goes_on, step, (bank, jnp.int32(0)))
    return bank, done(bank)


def _empty(begun: Any, queue: DecodingQueue) -> Any:
    """The state of all slots without sentences, where `begun` is the shape of `refill_size` that have begun."""
    times = queue.slots // queue.refill_size
    return jax.tree.map(lambda leaf: jnp.zeros((leaf.shape[0] * times, *leaf.shape[1:]), leaf.dtype), begun)


def _with_slots(leaf: Array, slots: Array, rows: Array, count: int) -> Array:
    """`leaf`, of `count` slots, with the rows of len(slots) sentences in these slots."""
    shape = leaf.shape[0] // count, *leaf.shape[1:]
    return leaf.reshape(count, *shape).at[slots].set(rows.reshape(len(slots), *shape)).reshape(leaf.shape)
