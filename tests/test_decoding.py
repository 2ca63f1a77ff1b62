"""The search against tables of numbers: brute force, greedy, re-scoring, batch mates, limits."""

import functools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tables import (
    EOS,
    IDS,
    PAD,
    START,
    brute_force,
    hashed,
    in_search_cache,
    log_prob_of,
    make_cache,
    make_step,
    make_table,
    translations,
)

from transformer_jax.config import SearchOptions
from transformer_jax.decoding import (
    DecodingQueue,
    Prefixes,
    SearchCache,
    beam_search,
    beam_slots,
    constrained_step,
    greedy_search,
    length_divisors,
    make_constraints,
    sample_search,
    single_batch,
    top_candidates,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def strict():
    jax.config.update("jax_debug_nans", True)
    before = jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_debug_nans", False)
    jax.config.update("jax_numpy_rank_promotion", before)


@functools.partial(jax.jit, static_argnames=("greedy", "ids", "options", "length", "longest"))
def run(table, cache, max_length, greedy, ids, options, length, longest):
    function = greedy_search if greedy else beam_search
    return function(make_step(table), single_batch(cache, max_length), ids, options, length=length, max_length=longest)


def search(table, max_length, *, beams, length=None, longest=0, sentences=None, never_generated=(), **options):
    """Jitted beam search (greedy search where `beams` is None) over the sentences of the table, NumPy results."""
    sentences = range(len(max_length)) if sentences is None else sentences
    length = length or max(max_length)
    cache, ids = make_cache(sentences, beams or 1, length), IDS._replace(never_generated=never_generated)
    options = SearchOptions(beam=beams or 1, **options)
    out = run(table, cache, np.array(max_length, np.int32), beams is None, ids, options, length, longest)
    return jax.tree.map(np.asarray, out)


def assert_same(a, b):
    """Equal results; the width T may differ, but then only pad follows."""
    np.testing.assert_array_equal(a.length, b.length)
    width = min(a.tokens.shape[2], b.tokens.shape[2])
    np.testing.assert_array_equal(a.tokens[:, :, :width], b.tokens[:, :, :width])
    for x in (a, b):
        assert (x.tokens[:, :, width:] == PAD).all()
        assert not x.token_log_probs[:, :, width:].any()
    np.testing.assert_array_equal(a.log_prob, b.log_prob)
    np.testing.assert_array_equal(a.score, b.score)
    np.testing.assert_array_equal(a.token_log_probs[:, :, :width], b.token_log_probs[:, :, :width])


def rows(out, which):
    return jax.tree.map(lambda x: x[which], out)


@pytest.mark.parametrize(
    ("seed", "alpha"),
    [pytest.param(seed, alpha, marks=[pytest.mark.slow] * (seed > 2)) for seed, alpha in enumerate([0.0, 0.6, 1.0, 0.6, 1.0])],
)
@pytest.mark.accelerator
def test_wide_beam_is_brute_force(alpha, seed):
    table, limits = make_table(seed, 4, 6), [4, 1, 2, 3]
    out = search(table, limits, beams=60, nbest=60, length_penalty=alpha)
    for row, limit in enumerate(limits):
        truth = brute_force(table, row, limit, alpha)
        count = len(truth)
        assert translations(out, row)[:count] == [tokens for _, _, tokens in truth]
        np.testing.assert_allclose(out.score[row, :count], [score for score, _, _ in truth], rtol=1e-5)
        np.testing.assert_allclose(out.log_prob[row, :count], [log_prob for _, log_prob, _ in truth], rtol=1e-5)
        assert (out.length[row, count:] == 0).all() and (out.score[row, count:] == -np.inf).all()
        assert (out.tokens[row, count:] == PAD).all()


@pytest.mark.parametrize("nbest", [1, 60])
@pytest.mark.parametrize(
    ("kind", "alpha", "reward"),
    [("power", 1.0, 0.0), ("power", 0.6, 0.3), ("none", 1.0, 0.0), ("none", 1.0, 0.7), ("gnmt", 0.6, 2.5)],
)
def test_every_score_by_length_is_that_of_brute_force_and_stops_no_search_too_early(kind, alpha, reward, nbest):
    table, limits = make_table(0, 4, 6), [4, 1, 2, 3]
    options = dict(length_penalty=alpha, length_normalization=kind, word_reward=reward)
    out = search(table, limits, beams=60, nbest=nbest, **options)
    for row, limit in enumerate(limits):
        truth = brute_force(table, row, limit, alpha, kind, reward)[:nbest]
        assert translations(out, row)[: len(truth)] == [tokens for _, _, tokens in truth]
        np.testing.assert_allclose(out.score[row, : len(truth)], [score for score, _, _ in truth], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beams", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "reward"), [("power", 0.0), ("none", 0.0), ("power", 0.5), ("gnmt", 0.5)])
def test_the_best_alone_is_the_best_of_all_hypotheses_that_the_beam_finishes(beams, kind, reward):
    """With nbest = 1 a sentence may be done while hypotheses are unfinished; none of these would have won."""
    table, limits = make_table(4, 6, 9, 1.0), [8, 1, 2, 5, 8, 6]
    options = dict(length_penalty=1.0, length_normalization=kind, word_reward=reward)
    every, best = (search(table, limits, beams=beams, nbest=nbest, **options) for nbest in (beams, 1))
    assert [translations(best, row)[0] for row in range(6)] == [translations(every, row)[0] for row in range(6)]
    np.testing.assert_array_equal(best.score[:, 0], every.score[:, 0])


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
@pytest.mark.accelerator
def test_one_beam_without_length_penalty_is_greedy(sharpness):
    table, limits = make_table(5, 16, 40, sharpness), [9, 12, 1, 3] * 4
    assert_same(search(table, limits, beams=1, length_penalty=0.0), search(table, limits, beams=None, length_penalty=0.0))


@pytest.mark.parametrize("beams", [None, 4])
@pytest.mark.accelerator
def test_batch_mates_and_width_change_nothing(beams):
    table, limits = make_table(1, 5, 30), [7, 2, 10, 1, 5]
    together = search(table, limits, beams=beams)
    assert_same(together, search(table, limits, beams=beams, length=17))
    for row, limit in enumerate(limits):
        assert_same(rows(together, [row]), search(table, [limit], sentences=[row], beams=beams, length=11))


@pytest.mark.parametrize(("beams", "alpha"), [(None, 0.0), (None, 1.5), (1, 0.6), (3, 0.0), (5, 0.6), (5, 1.5)])
def test_hypotheses_are_what_they_say(beams, alpha):
    """True log-probabilities, penalty by length, best first, ended by EOS within the limit, pad behind, no suppressed id."""
    table, limits = make_table(2, 6, 12, 1.0), [8, 1, 2, 5, 8, 6]
    table[:, :, [PAD, START, 7]] = -0.01  # the most tempting tokens are the suppressed ones
    options = {} if beams is None else {"nbest": beams}
    out = search(table, limits, beams=beams, length_penalty=alpha, never_generated=(7,), **options)
    for row, limit in enumerate(limits):
        columns = out.log_prob[row], out.score[row], out.token_log_probs[row]
        for tokens, log_prob, score, token_log_probs in zip(translations(out, row), *columns, strict=True):
            assert not token_log_probs[len(tokens) :].any()
            if not tokens:
                assert log_prob == score == -np.inf
                continue
            expected = np.diff([0, *(log_prob_of(table, row, tokens[: i + 1]) for i in range(len(tokens)))])
            np.testing.assert_allclose(token_log_probs[: len(tokens)], expected, rtol=1e-4, atol=1e-5)
            assert tokens[-1] == EOS and tokens.count(EOS) == 1 and len(tokens) <= limit
            assert not {PAD, START, 7} & set(tokens)
            np.testing.assert_allclose(log_prob, log_prob_of(table, row, tokens), rtol=1e-5)
            np.testing.assert_allclose(score, log_prob / ((5 + len(tokens)) / 6) ** alpha, rtol=1e-5)
        assert (np.diff(out.score[row]) <= 0).all() if out.length[row].all() else True
        assert len(set(translations(out, row)) - {()}) == np.count_nonzero(out.length[row])
        for tokens, size in zip(out.tokens[row], out.length[row], strict=True):
            assert (tokens[size:] == PAD).all()


def test_limit_one_is_eos_alone_and_limit_zero_nothing():
    table = make_table(3, 2, 9)
    for beams in (None, 3):
        out = search(table, [1, 0], beams=beams, length=4)
        assert out.tokens[:, 0].tolist() == [[EOS, PAD, PAD, PAD], [PAD] * 4]
        assert out.length.tolist() == [[1], [0]]
        np.testing.assert_allclose(out.log_prob[:, 0], [log_prob_of(table, 0, (EOS,)), -np.inf])


def test_minus_infinity_is_safe():
    table = make_table(4, 3, 8)
    table[:, :, 3:7] = -np.inf  # one word and EOS remain
    out = search(table, [5, 2, 3], beams=4, nbest=4)
    assert (out.length > 0).sum(axis=1).tolist() == [4, 2, 3]
    table[0] = -np.inf
    out = search(table, [5, 2, 3], beams=4)
    assert out.length[0, 0] == 0 and out.log_prob[0, 0] == -np.inf and (out.length[1:] > 0).all()


@pytest.mark.parametrize("alpha", [0.0, 0.6, pytest.param(1.0, marks=pytest.mark.slow)])
def test_stopping_early_changes_nothing(alpha):
    """The best of one returned is the best of all returned, which keeps every sentence alive longer."""
    table, limits = make_table(6, 12, 20, 1.5), [10] * 12
    every = search(table, limits, beams=4, nbest=4, length_penalty=alpha)
    for nbest in (1, 3):
        few = search(table, limits, beams=4, nbest=nbest, length_penalty=alpha)
        assert_same(few, jax.tree.map(lambda x, n=nbest: x[:, :n], every._replace(cut=None)))


@pytest.mark.parametrize(("beams", "sharpness"), [(None, 3.0), (4, 6.0)])
def test_with_less_room_a_sentence_is_found_as_before_or_cut(beams, sharpness):
    table, limits = make_table(6, 30, 20, sharpness), list(range(3, 13)) * 3
    full, short = (search(table, limits, beams=beams, length=length, longest=12) for length in (12, 7))
    assert not full.cut.any() and not short.cut[np.array(limits) <= 7].any()
    assert short.cut[full.length[:, 0] > 7].all()
    kept = ~short.cut
    assert short.cut.any() and (kept & (np.array(limits) > 7)).any()
    assert_same(*(jax.tree.map(lambda x: x[kept], out) for out in (full, short)))


def position_step(probabilities, steps=None):
    """A step from probabilities by position, [T][V]; appends to `steps` whenever it runs."""
    table = jnp.log(jnp.asarray(probabilities, jnp.float32))

    def step(token, index, cache):
        if steps is not None:
            jax.debug.callback(lambda i: steps.append(int(i)), index)
        return jnp.broadcast_to(table[index][None, :], (token.shape[0], table.shape[1])), cache

    return step


def run_positions(probabilities, alpha, steps=None, beams=2, nbest=1):
    length = len(probabilities)

    @jax.jit
    def found(probabilities):
        step, queue = position_step(probabilities, steps), single_batch(jnp.zeros((beams, 1)), jnp.array([length]))
        options = SearchOptions(beam=beams, nbest=nbest, length_penalty=alpha)
        return beam_search(step, queue, IDS, options, length=length)

    out = found(np.array(probabilities, np.float32))
    jax.effects_barrier()
    return translations(out, 0)


def test_a_longer_hypothesis_may_win_later():
    """By hand. EOS at once: log 0.5 = -0.69. Three words and EOS: log 0.45 = -0.80, but / (9/6) ** 1 = -0.53."""
    sure = [1e-9, 1e-9, 1e-9, 1.0]
    chain = [[1e-9, 0.5, 1e-9, 0.45], sure, sure, [1e-9, 1.0, 1e-9, 1e-9]]
    assert run_positions(chain, 1.0) == [(3, 3, 3, EOS)]
    assert run_positions(chain, 0.0) == [(EOS,)]


def test_the_loop_stops_as_soon_as_nothing_can_win():
    words = [[1e-9, 1e-9, 1e-9, 1.0]] * 2 + [[1e-9, 0.98, 1e-9, 0.02]] + [[1e-9, 0.5, 1e-9, 0.5]] * 37
    steps = []
    assert run_positions(words, 0.0, steps) == [(3, 3, EOS)]
    assert steps == [0, 1, 2]
    more = []
    assert run_positions(words, 0.0, more, nbest=2)[0] == (3, 3, EOS)
    assert len(steps) < len(more) < 10
    some = []
    assert run_positions(words, 0.6, some) == [(3, 3, EOS)]
    assert 3 <= len(some) < 20


def test_finished_sentences_do_not_keep_the_loop_alive():
    """The second row only fills the batch, the third is done at its limit of 2: the loop ends with the first, at 3."""
    steps = []

    def found(search, beams):
        step = position_step([[1e-9, 1e-9, 1e-9, 1.0]] * 8, steps)
        queue = single_batch(jnp.zeros((3 * beams, 1)), jnp.array([3, 0, 2]))
        return search(step, queue, IDS, SearchOptions(beam=beams), length=8)

    out = jax.jit(lambda: found(beam_search, 3))()
    jax.effects_barrier()
    assert steps == [0, 1, 2] and out.length[:, 0].tolist() == [3, 0, 2]
    steps.clear()
    jax.jit(lambda: found(greedy_search, 1))()
    jax.effects_barrier()
    assert steps == [0, 1, 2]


def test_ties_go_to_the_lower_token():
    even = [[0.1] * 10] * 3
    assert run_positions(even, 0.0, beams=4, nbest=1) == [(EOS,)]
    worded = [[0.1, 1e-9, *[0.1] * 8], [0.1] * 10]
    assert run_positions(worded, 0.0, beams=2, nbest=2) == [(3, EOS), (4, EOS)]


@pytest.mark.parametrize("vocabulary", [3, 64, 97, 640, 1009])
@pytest.mark.parametrize("digits", [0, 3])
def test_two_stage_top_k_is_top_k(vocabulary, digits):
    """Rounded numbers bring many ties, which must fall the same way."""
    rng, batch, beams = np.random.default_rng(vocabulary), 5, 4
    log_probs = np.round(rng.standard_normal((batch * beams, vocabulary)), digits).astype(np.float32) - 5
    log_prob = np.round(-np.abs(rng.standard_normal((batch, beams))), digits).astype(np.float32)
    log_prob[0, 1:] = -np.inf
    suppressed = (0, vocabulary // 2, vocabulary - 1)
    masked = log_probs.copy()
    masked[:, list(suppressed)] = -np.inf
    total = (masked.reshape(batch, beams, vocabulary) + log_prob[:, :, None]).reshape(batch, -1)
    value, place = lax.top_k(total, 2 * beams)
    best = jax.jit(functools.partial(top_candidates.best_continuations, suppressed=suppressed))
    ours = best(top_candidates.LogProbs.of_step(log_probs), log_prob)
    np.testing.assert_array_equal(ours[0], value)
    real = np.asarray(value) > -np.inf
    np.testing.assert_array_equal((ours[1] * vocabulary + ours[2])[real], place[real])


@pytest.mark.parametrize("vocabulary", [3, 97, 640])
def test_log_probabilities_that_are_not_written_out_are_those_of_log_softmax(vocabulary):
    logits = 20 * np.random.default_rng(vocabulary).standard_normal((6, vocabulary)).astype(np.float32)
    logits[1, 1:] = -np.inf
    log_probs = top_candidates.LogProbs.of_logits(jnp.asarray(logits))
    np.testing.assert_array_equal(log_probs.log_sum, jax.nn.logsumexp(logits, axis=1))
    np.testing.assert_allclose(log_probs.all(), jax.nn.log_softmax(logits), rtol=1e-6, atol=1e-5)
    row, token = np.array([[0], [5]]), np.array([[2, 0], [1, 2]])
    np.testing.assert_array_equal(log_probs.at(row, token), log_probs.all()[row, token])
    again = top_candidates.LogProbs.of_step(log_probs.all().astype(jnp.bfloat16))
    assert again.all().dtype == jnp.float32 and (again.all() == log_probs.all().astype(jnp.bfloat16)).all()


def test_slots_move_as_few_rows_as_can_be():
    parent = jnp.array([[2, 0, 2, 2], [3, 2, 1, 0], [1, 1, 1, 1], [0, 3, 0, 0]])
    alive = jnp.array([[True] * 4, [True] * 4, [True, True, False, False], [False] * 4])
    hypothesis, slots = beam_slots.assign_slots(parent, alive)
    assert hypothesis.tolist() == [[1, 2, 0, 3], [3, 2, 1, 0], [1, 0, 2, 3], [0, 1, 2, 3]]
    assert slots.tolist() == [[0, 2, 2, 2], [0, 1, 2, 3], [1, 1, 2, 3], [0, 1, 2, 3]]
    cache = {"a": jnp.arange(16), "b": jnp.arange(32.0).reshape(16, 2, 1)}
    moved = beam_slots.reorder_cache(cache, slots)
    where = (np.arange(4)[:, None] * 4 + np.asarray(slots)).ravel()
    assert all((np.asarray(moved[name]) == np.asarray(cache[name])[where]).all() for name in cache)


def test_what_is_refused():
    table = make_table(0, 1, 6)
    for options, words in (
        ({"never_generated": (EOS,)}, "EOS"),
        ({"length_penalty": -0.1}, "length_penalty"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"word_reward": -0.1}, "word_reward"),
        ({"nbest": 3}, "nbest"),
        ({"nbest": 0}, "nbest"),
    ):
        with pytest.raises(ValueError, match=words):
            search(table, [3], beams=2, **options)
    np.testing.assert_allclose(length_divisors(7, SearchOptions(length_penalty=1.0))[[1, 7]], [1.0, 2.0])


# Sampling


@functools.partial(jax.jit, static_argnames=("length", "options"))
def run_sample(table, cache, max_length, numbers, length, seed, options):
    queue, key = single_batch(cache, max_length), jax.random.key(seed)
    return sample_search(make_step(table), queue, IDS, options, key=key, numbers=numbers, length=length)


def draw(table, limits, *, samples=1, sentences=None, length=None, seed=0, **options):
    sentences = list(range(len(limits)) if sentences is None else sentences)
    length = length or max(limits)
    cache = make_cache(sentences, samples, length)
    arrays = jnp.asarray(limits, jnp.int32), jnp.asarray(sentences, jnp.int32)
    options = SearchOptions(nbest=samples, **{"temperature": 1.0} | options)
    return jax.tree.map(np.asarray, run_sample(table, cache, *arrays, length, seed, options))


def distribution(table, limit, temperature=1.0, top_k=0, top_p=1.0, epsilon=0.0, prefix=(), state=0, previous=START):
    """The chance of each translation of the first sentence, by the definition."""
    state = hashed(state, previous, len(prefix))
    if len(prefix) + 1 == limit:
        return {(*prefix, EOS): 1.0}
    chances = {v: math.exp(table[0, state, v] / temperature) for v in range(table.shape[2]) if v not in (PAD, START)}
    ordered = sorted(chances, key=lambda v: -chances[v])[: top_k or None]
    total = sum(chances.values())
    improbable = {v for v in ordered[1:] if chances[v] / total < epsilon}
    chances = {v: chances[v] / sum(chances[v] for v in ordered) for v in ordered}
    below = np.cumsum(list(chances.values())) - list(chances.values())
    chances = {v: chance for (v, chance), share in zip(chances.items(), below, strict=True) if share < top_p}
    chances = {v: chance for v, chance in chances.items() if v not in improbable}
    found = {}
    for v, chance in chances.items():
        rest = (top_k, top_p, epsilon, (*prefix, v), state, v)
        after = {(*prefix, v): 1.0} if v == EOS else distribution(table, limit, temperature, *rest)
        found |= {tokens: chance / sum(chances.values()) * share for tokens, share in after.items()}
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7},
        {"temperature": 2.0, "top_k": 2},
        {"top_p": 0.8},
        {"top_k": 3, "top_p": 0.6},
        {"epsilon": 0.2},
        {"temperature": 1.5, "epsilon": 0.15},
        {"top_k": 3, "epsilon": 0.2},
        {"top_p": 0.9, "epsilon": 0.15},
    ],
    ids=str,
)
def test_samples_come_as_often_as_they_should(options):
    table, count = make_table(8, 1, 7, 1.0), 20_000
    out = draw(table, [3], samples=count, **options)
    found = Counter(translations(out, 0))
    expected = distribution(table, 3, **options)
    assert "epsilon" not in options or len(expected) < len(distribution(table, 3, **options | {"epsilon": 0.0}))
    assert found.keys() <= expected.keys() and sum(expected.values()) == pytest.approx(1)
    for tokens, chance in expected.items():
        assert abs(found[tokens] / count - chance) < 5 * math.sqrt((chance + 1e-4) / count)
    for row in range(10):  # as if found by search
        np.testing.assert_allclose(out.log_prob[0, row], log_prob_of(table, 0, translations(out, 0)[row]), rtol=1e-5)
        np.testing.assert_allclose(out.score[0, row], out.log_prob[0, row] / ((5 + out.length[0, row]) / 6) ** 0.6, rtol=1e-5)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"temperature": 1e-3}, {"top_p": 1e-6}, {"epsilon": 0.999999}], ids=str)
def test_sampling_with_nothing_to_choose_is_greedy(options):
    table, limits = make_table(5, 6, 40, 3.0), [9, 12, 1, 3, 0, 7]
    assert_same(draw(table, limits, length=12, **options), search(table, limits, beams=None, length=12))


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.02}], ids=str)
def test_what_is_drawn_depends_on_the_sentence_and_the_seed_alone(options):
    table, limits = make_table(1, 5, 30, 0.5), [7, 2, 10, 1, 5]
    together = draw(table, limits, samples=3, **options)
    assert_same(together, draw(table, limits, samples=3, length=17, **options))
    for row, limit in enumerate(limits):
        assert_same(rows(together, [row]), draw(table, [limit], sentences=[row], samples=3, length=11, **options))
    assert translations(together, 2) != translations(draw(table, limits, samples=3, seed=1, **options), 2)
    assert len(set(translations(together, 2))) == 3


def test_sampling_that_cannot_be():
    for options in ({"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"epsilon": -0.1}, {"epsilon": 1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            draw(make_table(0, 1, 6), [3], **options)


# Constraints

ONCE = (3, 5)  # the tokens that come once at most, where a test has a rule for these


@functools.partial(jax.jit, static_argnames=("beams", "length", "n"))
def run_restricted(table, cache, max_length, rules, beams, length, n):
    step = constrained_step(in_search_cache(make_step(table)), eos_id=EOS, no_repeat_ngram=n, once_ids=ONCE)
    constraints = make_constraints(len(cache["state"]), length=length, no_repeat_ngram=n, **rules)
    queue = single_batch(SearchCache(cache, constraints=constraints), max_length)
    if beams is None:
        return greedy_search(step, queue, IDS, SearchOptions(), length=length)
    return beam_search(step, queue, IDS, SearchOptions(beam=beams, nbest=beams), length=length)


def search_restricted(table, limits, beams, n=0, length=None, **rules):
    length, max_length = length or max(limits), jnp.asarray(limits, jnp.int32)
    rules = {name: np.repeat(np.array(value, np.int32), beams or 1, axis=0) for name, value in rules.items()}
    if "once" in rules:
        rules["once"] = rules["once"].astype(bool)
    if "prefix" in rules:
        rules["prefixes"] = Prefixes(rules.pop("prefix"), rules.pop("prefix_length"))
    cache = make_cache(range(len(limits)), beams or 1, length)
    return jax.tree.map(np.asarray, run_restricted(table, cache, max_length, rules, beams, length, n))


def keeps(tokens, n, least, prefix):
    grams = [tokens[i : i + n] for i in range(len(tokens) - n + 1)] if n else []
    # What is forced may repeat; nothing else may complete a run that was there before.
    repeats = [i for i, gram in enumerate(grams) if gram in grams[:i] and i + n > len(prefix)]
    return len(tokens) >= least and tokens[: len(prefix)] == prefix and not repeats


@pytest.mark.parametrize("n", [0, 2])
def test_restricted_search_is_brute_force_over_what_is_allowed(n):
    table, limits = make_table(11, 4, 6), [5, 4, 3, 5]
    least, prefixes = [1, 3, 2, 5 if n != 1 else 4], [(), (3,), (), (4, 4)]
    padded = np.array([[*prefix, 0, 0][:2] for prefix in prefixes])
    rules = {"min_length": least, "prefix": padded, "prefix_length": list(map(len, prefixes))}
    out = search_restricted(table, limits, 130, n, **rules)
    for row, limit in enumerate(limits):
        truth = [each for each in brute_force(table, row, limit, 0.6) if keeps(each[2], n, least[row], prefixes[row])]
        count = len(truth)
        assert 0 < count < 130
        assert translations(out, row)[:count] == [tokens for _, _, tokens in truth]
        np.testing.assert_allclose(out.score[row, :count], [score for score, _, _ in truth], rtol=1e-5)
        assert (out.length[row, count:] == 0).all()


@pytest.mark.parametrize(("n", "beams"), [(1, 4), (2, None), (2, 1)])
def test_rules_hold_in_any_search_and_without_batch_mates(n, beams):
    table, limits = make_table(12, 5, 12, 1.0), [9, 3, 8, 9, 5]
    least, prefixes = [6, 1, 8, 4, 5], [(5,), (), (3, 4, 5), (), (7, 7)]
    padded = np.array([[*prefix, 0, 0, 0][:3] for prefix in prefixes])
    rules = {"min_length": np.array(least), "prefix": padded, "prefix_length": np.array(list(map(len, prefixes)))}
    out = search_restricted(table, limits, beams, n, **rules)
    for row, limit in enumerate(limits):
        for tokens, log_prob in zip(translations(out, row), out.log_prob[row], strict=True):
            if tokens:
                assert keeps(tokens, n, least[row], prefixes[row]) and len(tokens) <= limit
                np.testing.assert_allclose(log_prob, log_prob_of(table, row, tokens), rtol=1e-5)
        assert out.length[row, 0]
        alone = search_restricted(table[[row]], [limit], beams, n, 9, **{name: value[[row]] for name, value in rules.items()})
        assert translations(out, row) == translations(alone, 0)
        np.testing.assert_allclose(out.score[row], alone.score[0], rtol=1e-6)


@pytest.mark.parametrize("beams", [130, 3, None])
def test_of_tokens_that_come_once_those_of_the_sentence_do_and_no_others(beams):
    table, limits, once = make_table(15, 4, 6), [4, 4, 3, 4], [[1, 1], [1, 0], [0, 0], [0, 1]]
    out = search_restricted(table, limits, beams, once=once)
    for row, limit in enumerate(limits):
        most = [tokens for tokens in translations(out, row) if tokens]
        counts = [[tokens.count(token) for token in ONCE] for tokens in most]
        assert most and all(count <= allowed for of_one in counts for count, allowed in zip(of_one, once[row], strict=True))
        if beams == 130:
            every = [tokens for _, _, tokens in brute_force(table, row, limit, 0.6)]
            assert most == [
                tokens for tokens in every if all(tokens.count(t) <= n for t, n in zip(ONCE, once[row], strict=True))
            ]


def test_rules_that_ask_for_nothing_change_nothing():
    table, limits = make_table(13, 3, 20), [7, 4, 9]
    expected = search(table, limits, beams=4, nbest=4)
    assert_same(search_restricted(table, limits, 4), expected)
    rules = {"min_length": [1, 0, 1], "prefix": [[0], [0], [0]], "prefix_length": [0, 0, 0]}
    assert_same(search_restricted(table, limits, 4, 10, **rules), expected)


# Sentences that wait


def waiting_step(table):
    """As `make_step`, for hypotheses of different ages: the memory is the index of their first step."""

    def step(token, index, cache, start):
        age = index - jnp.repeat(start, len(token) // len(start))
        state = hashed(cache["state"], token, age)
        return table[cache["sentence"], state], {"state": state, "sentence": cache["sentence"]}

    return step


@functools.partial(jax.jit, static_argnames=("hypotheses", "slots", "refill_size", "length", "kind"))
def run_waiting(table, limits, real, hypotheses, slots, refill_size, length, kind):
    def begin(numbers, index):
        sentence = jnp.repeat(numbers, hypotheses)
        cache = {"state": jnp.zeros_like(sentence), "sentence": sentence}
        if kind == "restricted":
            least = jnp.full(len(sentence), 3)
            rules = dict(length=length, start=index, min_length=least, no_repeat_ngram=2)
            cache = SearchCache(cache, constraints=make_constraints(len(sentence), **rules))
        return cache, limits[numbers], jnp.full(len(numbers), index)

    queue, step = DecodingQueue(begin, len(limits), real, slots, refill_size), waiting_step(table)
    if kind == "restricted":
        step = constrained_step(in_search_cache(step), eos_id=EOS, no_repeat_ngram=2)
    if kind == "greedy":
        return greedy_search(step, queue, IDS, SearchOptions(), length=length)
    options = SearchOptions(beam=hypotheses, nbest=hypotheses, temperature=1.0 if kind == "sample" else 0.0)
    if kind == "sample":
        return sample_search(step, queue, IDS, options, key=jax.random.key(0), numbers=jnp.arange(len(limits)), length=length)
    return beam_search(step, queue, IDS, options, length=length)


@pytest.mark.parametrize("kind", ["greedy", "sample", "beam", "restricted"])
def test_a_sentence_that_waited_is_searched_as_if_alone(kind):
    """Slots that become free one by one, in pairs, all at once; two sentences have a limit of 0, the last three never begin."""
    table, hypotheses = make_table(20, 24, 15, 1.5), 1 if kind == "greedy" else 3
    limits = np.random.default_rng(0).integers(3, 12, 24)
    limits[[2, 9]] = 0
    run_with = functools.partial(run_waiting, table, jnp.asarray(limits), 21, hypotheses, length=12, kind=kind)
    expected = rows(jax.tree.map(np.asarray, run_with(slots=24, refill_size=24)), slice(21))
    assert (expected.length[:, 0] > 0).tolist() == (limits[:21] > 0).tolist()
    for slots, refill_size in ((1, 1), (4, 2), (6, 6)):
        assert_same(rows(jax.tree.map(np.asarray, run_with(slots=slots, refill_size=refill_size)), slice(21)), expected)


def test_slots_are_filled_as_soon_as_enough_are_free():
    """Two slots: eight sentences of one step take four. With one of seven steps, which keeps a slot, seven or ten."""

    def steps_of(limits, refill_size):
        steps = []

        def step(token, index, cache, start):
            jax.debug.callback(lambda i: steps.append(int(i)), index)
            return jnp.log(jnp.tile(jnp.array([[1e-9, 1e-9, 1e-9, 1.0]]), (len(token), 1))), cache

        def begin(numbers, index):
            return jnp.zeros((len(numbers), 1)), jnp.asarray(limits)[numbers], jnp.full(len(numbers), index)

        queue = DecodingQueue(begin, len(limits), np.int32(len(limits)), 2, refill_size)
        jax.jit(lambda: greedy_search(step, queue, IDS, SearchOptions(), length=9))()
        jax.effects_barrier()
        return len(steps)

    assert steps_of([1] * 8, 1) == steps_of([1] * 8, 2) == 4
    assert steps_of([7, 1, 1, 1, 1, 1, 1, 1], 1) == 7
    assert steps_of([7, 1, 1, 1, 1, 1, 1, 1], 2) == 10


@pytest.mark.slow
def test_a_coverage_score_is_part_of_the_score_and_of_the_choice():
    """A translation of more words costs less here, as if they covered more of the source; brute force knows all of them."""
    table, limits = make_table(33, 4, 6), [4, 4, 3, 2]
    cache = make_cache(range(4), 60, 4)

    def coverage_score(cache):
        words = jnp.sum(cache["prefix"][:, :, 0] >= 3, axis=1)
        return jnp.minimum(words - 3.0, 0.0)

    queue, options = single_batch(cache, jnp.array(limits)), SearchOptions(beam=60, nbest=60)

    def found(score):
        return jax.jit(lambda table: beam_search(make_step(table), queue, IDS, options, length=4, coverage_score=score))

    out, plain = (jax.tree.map(np.asarray, found(score)(table)) for score in (coverage_score, None))
    for row, limit in enumerate(limits):
        every = [(score + min(len(tokens) - 4, 0), tokens) for score, _, tokens in brute_force(table, row, limit, 0.6)]
        every.sort(key=lambda each: -each[0])
        assert translations(out, row)[: len(every)] == [tokens for _, tokens in every]
        np.testing.assert_allclose(out.score[row, : len(every)], [score for score, _ in every], rtol=1e-5)
    assert translations(out, 0) != translations(plain, 0)
