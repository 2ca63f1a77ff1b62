"""Phrases that must occur and prefixes that end inside a word, against brute force over tables of numbers."""

import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import (
    EOS,
    IDS,
    PAD,
    brute_force,
    in_search_cache,
    log_prob_of,
    make_cache,
    make_step,
    make_table,
    translations,
)

from transformer_jax.config import SearchOptions
from transformer_jax.decoding import (
    Continuations,
    Phrases,
    SearchCache,
    TokenTexts,
    beam_search,
    begin_phrases,
    constrained_search,
    constrained_step,
    make_constraints,
    single_batch,
)
from transformer_jax.inference.line_pieces import Piece
from transformer_jax.inference.phrases import NO_PREFIX, Phrase, Prefix, has_phrases
from transformer_jax.inference.search_rows import beam_of, pack_rows
from transformer_jax.tokenization.token_texts import Surfaces, is_letter

pytestmark = pytest.mark.usefixtures("quick_compilation")


def arrays_of(pieces, vocab_size):
    """The arrays that `pack_rows` makes of phrases and prefixes."""
    tokenizer = SimpleNamespace(pad_id=PAD, vocab_size=vocab_size, placeholder_ids=())
    return pack_rows(pieces, 1, 1 << 20, tokenizer, SearchOptions()).rows


def piece_of(prefix=NO_PREFIX, phrases=()):
    return Piece(np.array([EOS]), prefix=prefix, phrases=phrases)


def texts_of(surfaces):
    columns = surfaces.begins_with_letter, surfaces.may_precede_word, surfaces.ranks, surfaces.sizes
    return TokenTexts(*map(jnp.asarray, columns))


@functools.partial(jax.jit, static_argnames=("length", "options"))
def run_constrained(table, cache, max_length, phrases, texts, length, options):
    queue = single_batch(SearchCache(cache, phrases=begin_phrases(phrases)), max_length)
    return constrained_search(in_search_cache(make_step(table)), queue, IDS, options, length=length, texts=texts)


def search_constrained(table, limits, phrases, *, beams, alpha=0.6, returned=None, surfaces=None):
    """`phrases` are `Phrase`s, or tuples of tokens, whole words each."""
    words = [[each if isinstance(each, Phrase) else plain(each) for each in of_row] for of_row in phrases]
    arrays = arrays_of([piece_of(phrases=of_row) for of_row in words], table.shape[2]).phrases
    arrays = jax.tree.map(lambda leaf: np.repeat(leaf, beams, axis=0), arrays)
    cache, longest = make_cache(range(len(limits)), beams, max(limits)), max(limits)
    texts = None if surfaces is None else texts_of(surfaces)
    options = SearchOptions(beam=beams, nbest=returned or beams, length_penalty=alpha)
    out = run_constrained(table, cache, jnp.asarray(limits), arrays, texts, longest, options)
    return jax.tree.map(np.asarray, out)


def plain(tokens):
    return Phrase("", np.array(tokens, np.int32), np.zeros(0, np.int32), False, True)


def has(tokens, phrase):
    return any(tokens[i : i + len(phrase)] == phrase for i in range(len(tokens)))


# Text. Tokens 3 .. 6 of a vocabulary, and phrases of them.

TEXTS = [b"", b"", b"", b" a", b"a", b" b", b"("]
SURFACES = Surfaces(TEXTS)
PHRASES = ["a", "b", "a b", "b a", "a a", "aa", "b b", "a(", "(", "( b", "b(a", "aaa", "aa b", "(a"]


def spelled(text):
    """The only way to write a text in these tokens; nothing where there is none."""
    if not text:
        return []
    for token in (3, 5, 4, 6):
        if text.startswith(TEXTS[token].decode()):
            rest = spelled(text[len(TEXTS[token]) :])
            return [] if rest == [] and len(text) > len(TEXTS[token]) else [token, *rest]
    return []


def phrase(text, ends="word"):
    spellings = [np.array(spelled(start + text), np.int32) for start in (" ", "")]
    letters = [any(map(is_letter, text.split()[place])) for place in (0, -1)]
    if not len(spellings[0]) and not letters[0]:  # punctuation is written without a space here
        spellings.reverse()
    return Phrase(text, *spellings, letters[0], ends == "word" and letters[1])


def text_of(tokens, texts=TEXTS):
    return b"".join(texts[token] for token in tokens).decode().removeprefix(" ")


@pytest.mark.parametrize("alpha", [pytest.param(0.0, marks=pytest.mark.slow), 0.6])
def test_constrained_search_is_brute_force_over_texts_that_have_the_phrases(alpha):
    """Phrases that share beginnings, lie inside each other and overlap, whole words and stems."""
    rows, limit, kept = 16, 5, 0
    for seed in range(3):
        random = np.random.default_rng(seed)
        table = make_table(40 + seed, rows, len(TEXTS))
        phrases = [
            [phrase(text, random.choice(["word", "anywhere"])) for text in random.choice(PHRASES, random.integers(1, 4))]
            for _ in range(rows)
        ]
        out = search_constrained(table, [limit] * rows, phrases, beams=350, alpha=alpha, surfaces=SURFACES)
        for row in range(rows):
            every = brute_force(table, row, limit, alpha)
            truth = [each for each in every if has_phrases(text_of(each[2]), phrases[row])]
            count = len(truth)
            assert translations(out, row)[:count] == [tokens for _, _, tokens in truth]
            np.testing.assert_allclose(out.score[row, :count], [score for score, _, _ in truth], rtol=1e-5)
            assert (out.length[row, count:] == 0).all()
            kept += count
    assert kept > 500


def test_constrained_search_is_brute_force_over_translations_with_the_phrases():
    alpha = 1.2
    table, limits = make_table(30, 5, 6), [5, 4, 5, 4, 3]
    phrases = [[(3,)], [(4, 3)], [(3,), (5, 4)], [], [(5,), (4,)]]
    out = search_constrained(table, limits, phrases, beams=160, alpha=alpha)
    for row, limit in enumerate(limits):
        every = brute_force(table, row, limit, alpha)
        truth = [each for each in every if all(has(each[2], phrase) for phrase in phrases[row])]
        count = len(truth)
        assert 0 < count < 160 and (count < len(every) or not phrases[row])
        assert translations(out, row)[:count] == [tokens for _, _, tokens in truth]
        np.testing.assert_allclose(out.score[row, :count], [score for score, _, _ in truth], rtol=1e-5)
        assert (out.length[row, count:] == 0).all()


@pytest.mark.parametrize("beams", [1, 5])
def test_phrases_occur_however_improbable_and_narrow_the_beam(beams):
    table, limits = make_table(31, 7, 30, 3.0), [12, 7, 9, 12, 7, 6, 7]
    table[:, :, [7, 8, 9]] -= 12  # nobody would say these
    phrases = [[(7, 8, 9)], [(7,), (8,), (9,)], [(7, 7, 8)], [(8, 9), (4, 5)], [(9, 8, 7, 7, 8)], [(7, 8), (9, 9)]]
    phrases.append([(7, 8), (7, 9), (7, 5)])  # the same beginning
    out = search_constrained(table, limits, phrases, beams=beams, returned=1)
    for row, of_row in enumerate(phrases):
        (tokens,) = translations(out, row)
        assert tokens[-1] == EOS and len(tokens) <= limits[row]
        assert all(has(tokens, phrase) for phrase in of_row)
        np.testing.assert_allclose(out.log_prob[row, 0], log_prob_of(table, row, tokens), rtol=1e-5)


def test_there_is_a_translation_with_the_phrases_within_the_least_limit():
    """Of few tokens, so that phrases go on inside each other's words: " ab" has to end before " abc" can be there."""
    texts = [b"", b"", b"", b" a", b" b", b"a", b"b", b"."]
    for seed in range(2):
        random = np.random.default_rng(seed)
        phrases = [
            [
                (int(random.integers(3, 5)), *random.integers(3, 8, random.integers(0, 3)).tolist())
                for _ in range(random.integers(1, 5))
            ]
            for _ in range(100)
        ]
        words = [
            [Phrase(text_of(tokens, texts), np.array(tokens), np.zeros(0), True, True) for tokens in dict.fromkeys(of_row)]
            for of_row in phrases
        ]
        limits = [sum(each.size for each in of_row) + 1 for of_row in words]
        out = search_constrained(make_table(seed, 100, 8), limits, words, beams=1, returned=1, surfaces=Surfaces(texts))
        for row, of_row in enumerate(words):
            (tokens,) = translations(out, row)
            assert tokens and len(tokens) <= limits[row] and has_phrases(text_of(tokens, texts), of_row)


def test_the_order_of_phrases_does_not_matter_and_twice_is_once():
    table, random = make_table(50, 60, 9), np.random.default_rng(5)
    phrases = [
        [tuple(random.integers(3, 6, random.integers(1, 4)).tolist()) for _ in range(random.integers(2, 4))] for _ in range(60)
    ]
    search = functools.partial(search_constrained, table, [14] * 60, beams=4)
    out, turned = search(phrases), search([of_row[::-1] for of_row in phrases])
    twice = search([[*of_row, of_row[0]][:4] for of_row in phrases])
    for name in ("tokens", "length", "log_prob", "score"):
        np.testing.assert_array_equal(getattr(out, name), getattr(turned, name))
    for row in range(60):
        assert all(has(tokens, each) for tokens in translations(twice, row) for each in phrases[row] if tokens)


def test_one_place_satisfies_several_phrases():
    """What is probable is "a b a", 3 4 3; " a b" and " b a" are both in it, and so is each of their words."""
    table = np.full((1, 97, 6), np.log(1e-4), np.float32)
    table[:, :, 3:5] = np.log(0.3)
    table[:, :, EOS] = np.log(0.3)
    out = search_constrained(table, [9], [[(3, 4), (4, 3), (3,), (4,)]], beams=16, alpha=0.0, returned=1)
    assert translations(out, 0)[0] in ((3, 4, 3, EOS), (4, 3, 4, EOS))


def test_a_phrase_alone_is_what_it_is_beside_others():
    """Rows of a batch have arrays of one shape, whatever their phrases."""
    table, limits = make_table(51, 4, 12), [9, 12, 7, 12]
    phrases = [[(3,)], [(4, 5, 6), (7, 8), (4, 5)], [], [(9, 3)]]
    together = search_constrained(table, limits, phrases, beams=4)
    alone = search_constrained(table[[3]], [limits[3]], [phrases[3]], beams=4)
    assert translations(together, 3) == translations(alone, 0)
    np.testing.assert_allclose(together.score[3], alone.score[0], rtol=1e-6)


def test_the_beam_grows_with_the_phrases_of_its_sentence():
    of_size = lambda *sizes: [plain((3,) * size) for size in sizes]  # noqa: E731
    beams = [beam_of(of_size(*sizes), SearchOptions(beam=4)) for sizes in ((), (1,), (3,), (4,), (2, 2, 3), (4, 4), (500,))]
    assert beams == [4, 4, 4, 8, 8, 16, 128]
    assert beam_of(of_size(2), SearchOptions(beam=1)) == 4 and beam_of([], SearchOptions(beam=1)) == 1
    assert beam_of(of_size(2), SearchOptions(beam=5)) == 5


# Prefixes


PIECES = [b"", b"", b"", b" a", b" ab", b"b", b"bc", b" "]


def prefix_of(surfaces, ids, text, ends_word=False):
    return Prefix(np.array(ids, np.int32), ends_word, text, surfaces.agreement(text) if text else None)


@functools.partial(jax.jit, static_argnames=("beams", "length"))
def run_restricted(table, cache, max_length, prefixes, texts, beams, length):
    step = constrained_step(in_search_cache(make_step(table)), eos_id=EOS, texts=texts)
    constraints = make_constraints(len(cache["state"]), length=length, prefixes=prefixes)
    queue = single_batch(SearchCache(cache, constraints=constraints), max_length)
    return beam_search(step, queue, IDS, SearchOptions(beam=beams, nbest=beams), length=length)


def test_a_prefix_that_ends_inside_a_word_is_brute_force_over_texts_that_begin_with_it():
    surfaces, limit = Surfaces(PIECES), 5
    cases = [
        ((), b" a"),
        ((), b" ab"),
        ((3,), b" "),
        ((5,), b"bcb"),
        ((), b" abb"),
        ((4, 5), b" a"),
        ((), b""),
        ((), b" abcb a"),
    ]
    cases += [((3,), b""), ((4, 6), b"")]
    whole = [False] * 8 + [True, True]
    prefixes = [prefix_of(surfaces, *case, ends_word) for case, ends_word in zip(cases, whole, strict=True)]
    arrays = arrays_of(list(map(piece_of, prefixes)), len(PIECES)).prefixes
    arrays = jax.tree.map(lambda leaf: np.repeat(leaf, 800, axis=0), arrays)
    table, rows = make_table(60, len(cases), len(PIECES)), range(len(cases))
    given = make_cache(rows, 800, limit), jnp.full(len(cases), limit), arrays, texts_of(surfaces)
    out = jax.tree.map(np.asarray, run_restricted(table, *given, beams=800, length=limit))
    for row, (ids, text) in enumerate(cases):
        every, count = brute_force(table, row, limit, 0.6), len(ids)
        truth = [each for each in every if each[2][:count] == ids and surfaces.text(each[2][count:]).startswith(text)]
        if whole[row]:
            truth = [each for each in truth if each[2][count] not in (5, 6)]
        assert 0 < len(truth) < 800
        assert translations(out, row)[: len(truth)] == [tokens for _, _, tokens in truth]
        np.testing.assert_allclose(out.score[row, : len(truth)], [score for score, _, _ in truth], rtol=1e-5)
        assert (out.length[row, len(truth) :] == 0).all()


def test_tokens_that_agree_with_a_text_lead_to_its_end():
    """By the definition, for every text of few letters: a token is left out where the rest has no spelling."""
    surfaces = Surfaces([b"", b"a", b"ab", b"bc", b"ca", b"cab", b"\xc3", b"\xa4", "\u00e4b".encode()])

    def agrees(text):
        """The tokens with which it may go on."""
        return {
            i
            for i, piece in enumerate(surfaces.texts)
            if piece and (piece.startswith(text) or (text.startswith(piece) and agrees(text[len(piece) :])))
        }

    for letters in itertools.chain.from_iterable(itertools.product("abc\u00e4", repeat=n) for n in range(1, 5)):
        text = "".join(letters).encode()
        found = surfaces.agreement(text)
        assert (found is None) == (not agrees(text))
        for place in range(len(text) if found else 0):
            inside = (surfaces.ranks >= found.low[place]) & (surfaces.ranks < found.high[place])
            assert {*np.flatnonzero(inside).tolist(), *found.within[place]} == agrees(text[place:])


def test_continuations_of_rows_without_text_are_empty():
    surfaces = Surfaces(PIECES)
    pieces = [piece_of(), piece_of(prefix_of(surfaces, (), b" ab"))]
    found = arrays_of(pieces, len(PIECES)).prefixes.continuation
    assert isinstance(found, Continuations) and found.size.tolist() == [0, 3] and found.low.shape == (2, 4)
    assert arrays_of(pieces[:1], len(PIECES)).prefixes is None
    assert isinstance(arrays_of([piece_of(phrases=[plain((3,))])], 8).phrases, Phrases)
