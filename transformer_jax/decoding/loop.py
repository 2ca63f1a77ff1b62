"""The loop that every search is: one more token for the sentences at work, and the next ones in the places of those done."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = ["Sentences", "at_once", "search_loop"]

State = TypeVar("State")  # a pytree whose every leaf is [B * any, ...], what belongs to one sentence side by side
Result = TypeVar("Result")  # the same, of leaves [B, ...]


class Sentences(NamedTuple):
    """What is searched for: `count` sentences, of which `slots` are at work together.

    `begin(numbers int32 [R], index)` makes ready the sentences of these numbers, which will see `index` as their first: their
    cache (leaves [R * hypotheses, ...]), their limits in tokens int32 [R], and their memory (leaves [R, ...] or None).
    """

    begin: Callable[[Array, Array], tuple[Any, Array, Any]]
    count: int
    real: Array  # int32 []: from this number on, there are only places; these never begin, and their results mean nothing
    slots: int
    together: int  # R: how many begin at a time; it divides `slots` and `count`


def at_once(cache: Any, max_length: Array, memory: Any = None) -> Sentences:
    """All sentences at work from the beginning: one for each of `max_length` int32 [B]. Cache and memory as in `Sentences`."""
    batch = len(max_length)
    begun = cache, jnp.asarray(max_length, jnp.int32), memory
    return Sentences(lambda numbers, index: begun, batch, jnp.int32(batch), batch, batch)


def search_loop(
    begin: Callable[[Array, Array], State],
    advance: Callable[[Array, State], State],
    sentences: Sentences,
    *,
    done: Callable[[State], Array],
    result: Callable[[State], Result],
) -> Result:
    """`result` of each sentence when it is `done` (bool [B]); leaves [sentences.count, ...].

    `begin(numbers, index)` is the state of sentences before their first step, `advance(index, state)` one step of all, which
    are independent of each other. `index` counts the steps of the loop and is the same for all, so a sentence's first step may
    have any. As soon as `together` slots are free, as many sentences begin in them; a step costs the same whether slots are
    free or not, and few are until the last sentence has begun:

        step 9      a . c .      a and c are at work, `.` is free; e, f and g are waiting, two begin at a time
        step 10     a e c f
    """
    numbers = jnp.arange(sentences.together)
    one_part = jax.eval_shape(begin, numbers, jnp.int32(0))
    parts = sentences.slots // sentences.together
    nothing = jax.tree.map(lambda leaf: jnp.zeros((leaf.shape[0] * parts, *leaf.shape[1:]), leaf.dtype), one_part)
    slots = sentences.slots, jnp.full(sentences.slots, sentences.count)  # which sentence is in each: none
    found = jax.tree.map(
        lambda leaf: jnp.zeros((sentences.count, *leaf.shape[1:]), leaf.dtype), jax.eval_shape(result, one_part)
    )

    def free(at: "_At") -> Array:
        return (at.number == sentences.count) | done(at.state)

    def can_begin(at: "_At") -> Array:
        return (at.next < sentences.real) & (jnp.sum(free(at)) >= sentences.together)

    def refill(at: "_At") -> "_At":
        where = jnp.argsort(~free(at), stable=True)[: sentences.together]
        new = begin(at.next + numbers, at.index)
        return at._replace(
            next=at.next + sentences.together,
            number=at.number.at[where].set(at.next + numbers),
            state=jax.tree.map(lambda leaf, part: _with_rows(leaf, where, part, slots[0]), at.state, new),
            found=_kept(at, where),
        )

    def work(at: "_At") -> "_At":
        return at._replace(index=at.index + 1, state=advance(at.index, at.state))

    def turn(at: "_At") -> "_At":
        at = lax.while_loop(can_begin, refill, at)
        return lax.while_loop(lambda at: ~can_begin(at) & ~jnp.all(free(at)), work, at)

    def _kept(at: "_At", where: Array) -> Result:
        """The results, with those of the sentences in these slots; none where no sentence is."""
        return jax.tree.map(
            lambda every, these: every.at[at.number[where]].set(these[where], mode="drop"), at.found, result(at.state)
        )

    start = _At(jnp.int32(0), jnp.int32(0), slots[1], nothing, found)
    at = lax.while_loop(lambda at: (at.next < sentences.real) | ~jnp.all(free(at)), turn, start)
    return _kept(at, jnp.arange(sentences.slots))


class _At(NamedTuple):
    """Where the loop is."""

    index: Array  # int32 []: steps so far
    next: Array  # int32 []: the first sentence that waits
    number: Array  # int32 [slots]: the sentence in each, or their count
    state: Any
    found: Any


def _with_rows(leaf: Array, where: Array, part: Array, slots: int) -> Array:
    """`leaf` with what is in `part`, of len(where) sentences, where these sentences are."""
    share = leaf.shape[0] // slots
    shape = share, *leaf.shape[1:]
    return leaf.reshape(slots, *shape).at[where].set(part.reshape(len(where), *shape)).reshape(leaf.shape)
