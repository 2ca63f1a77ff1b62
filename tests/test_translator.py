"""Text in, text out: what a translation is depends on its line, the model and the search, and on nothing beside it."""

import functools
import itertools
import types

import jax
import numpy as np
import pytest
from helpers import FAMILIES, each_family, letters, random_parameters, tiny_config, tiny_model
from sacrebleu.metrics import BLEU, CHRF

from transformer_jax.config import Config, SearchOptions, TokenizerConfig
from transformer_jax.data.batching import Batch, Shape, bucketed_batch
from transformer_jax.data.store import Store
from transformer_jax.decoding.beam import beam_search
from transformer_jax.decoding.greedy import greedy_search
from transformer_jax.errors import UserError
from transformer_jax.inference import batched_search, length_batches
from transformer_jax.inference.batched_search import Searcher
from transformer_jax.inference.length_batches import SEARCH_LENGTHS, search_groups
from transformer_jax.inference.model_search import search_inputs
from transformer_jax.inference.phrases import has_phrases, read_phrases, read_prefixes
from transformer_jax.inference.sentences import split_line
from transformer_jax.inference.translation import Translation
from transformer_jax.inference.translator import Translator, load_translator
from transformer_jax.models.attention_weights import attention_of
from transformer_jax.models.seq2seq import build_model
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.evaluator import _best_aligning_layer, _links
from transformer_jax.training.loop import train
from transformer_jax.training.step import make_eval_step

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")
LINES = ["a b", "c", "", "h g f e d c b a", "a b c d", "  ", "b b", "e f a c d e", "\u00bd \u4f60", "d"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), tmp_path_factory.mktemp("tokenizer"))


def make_config(**model):
    config = Config()
    config.model = tiny_model(**model)
    config.batch.max_length = 20
    config.decode.beam, config.decode.max_length_ratio, config.decode.max_length_extra = 2, 1.0, 3
    return config


def make_translator(tokenizer, seed=0, **model_changes):
    config = make_config(**model_changes)
    model = build_model(config.model, tokenizer.vocab_size)
    return Translator(model, random_parameters(model, seed), tokenizer, config)


@pytest.fixture(scope="module", params=each_family(*FAMILIES.values()))
def translator(tokenizer, request):
    return make_translator(tokenizer, **request.param)


@pytest.fixture(scope="module")
def transformer(tokenizer):
    """For what does not depend on the family."""
    return make_translator(tokenizer, **FAMILIES["Transformer"])


def assert_same(found: list[Translation], expected: list[Translation]) -> None:
    assert [each.text for each in found] == [each.text for each in expected]
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    assert [each.parts for each in found] == [each.parts for each in expected]
    for field in ("log_prob", "score"):
        values = [np.array([getattr(each, field) for each in side]) for side in (found, expected)]
        np.testing.assert_allclose(*values, atol=1e-4)


def make_scorer(translator):
    """log P(. | source, the tokens before) at every place of a target row, by teacher forcing in one pass: [T, V]."""

    @jax.jit
    def logits(batch):
        return jax.nn.log_softmax(translator.model.apply({"params": translator.params}, batch, train=False))

    def score(source, target, length):
        target = np.pad(target, (0, length - len(target)), constant_values=translator.tokenizer.eos_id)[None].astype(np.int32)
        shifted = np.concatenate([[[translator.tokenizer.decoder_start_id]], target[:, :-1]], axis=1).astype(np.int32)
        rest = [np.ones_like(target), np.arange(length, dtype=np.int32)[None]]
        positions = np.arange(len(source), dtype=np.int32)[None]
        batch = Batch(source[None], np.ones_like(source)[None], positions, shifted, target, *rest)
        return np.asarray(logits(batch))[0]

    return score


def test_a_translation_stands_where_its_line_stood(translator):
    expected = {line: translator.translate([line])[0] for line in LINES}
    for order in (LINES, LINES[::-1], sorted(LINES)):
        assert_same(translator.translate(order), [expected[line] for line in order])
    assert len({each.text for each in expected.values()}) > 3


@pytest.mark.parametrize("beam, tokens", [(1, 24), (2, 24), (2, 1)])
def test_batch_size_batch_mates_and_padding_change_nothing(translator, beam, tokens):
    alone = [translator.translate([line], beam=beam)[0] for line in LINES]
    assert_same(translator.translate(LINES, beam=beam, tokens=tokens), alone)


def test_searches_side_by_side_change_nothing(translator, monkeypatch):
    lines, done = LINES * 3, []
    alone = [translator.translate([line], beam=2)[0] for line in LINES] * 3
    monkeypatch.setattr("transformer_jax.inference.batched_search.searches_at_once", lambda: 3)
    found = translator.translate(lines, beam=2, tokens=48, progress=lambda now, all: done.append((now, all)))
    assert_same(found, alone)
    assert done[-1] == (len(lines), len(lines)) and len(done) > 2


def test_a_run_computes_in_the_type_that_is_asked_for(tmp_path):
    config = tiny_config(tmp_path)
    config.model.compute_dtype, config.train.steps, config.decode.beam = "bfloat16", 2, 1
    train(config, tmp_path / "run")
    run, best = Run(tmp_path / "run"), CheckpointName("latest")
    scores = {}
    for dtype in (None, "bfloat16", "float32"):
        translator, _ = load_translator(run, best, dtype)
        assert translator.model.config.compute_dtype == (dtype or "bfloat16")
        scores[dtype] = translator.score(["a b c"], ["c b a"])[0].log_prob
    assert scores[None] == scores["bfloat16"] != scores["float32"] == pytest.approx(scores[None], abs=0.1)


def test_no_lines_have_no_translations_and_blank_lines_the_empty_one(translator):
    assert translator.translate([]) == []
    assert translator.translate(["", " \t", "\u2028"]) == [Translation("", 0.0, 0.0, (), 0)] * 3


@pytest.mark.accelerator
def test_one_beam_is_greedy_by_teacher_forcing(translator):
    score = make_scorer(translator)
    tokenizer = translator.tokenizer
    never = [i for i in (tokenizer.pad_id, tokenizer.bos_id, tokenizer.unknown_id) if i != tokenizer.eos_id]
    for line in ("a b c d", "e f a c"):
        source = tokenizer.encode_source([line])[0]
        limit = len(source) + 3
        target = np.zeros(0, np.int32)
        while len(target) < limit and tokenizer.eos_id not in target:
            log_probs = score(source, target, limit)[len(target)].copy()
            log_probs[never] = -np.inf
            target = np.append(target, tokenizer.eos_id if len(target) == limit - 1 else log_probs.argmax())
        found = translator.translate([line], beam=1)[0]
        assert list(found.tokens) == target.tolist()
        assert found.text == tokenizer.decode([target])[0]


@pytest.mark.parametrize("beam", [1, 2, 4])
@pytest.mark.accelerator
def test_log_prob_is_that_of_teacher_forcing_and_score_divides_it(translator, beam):
    score = make_scorer(translator)
    for line in ("a b c d", "e f a c"):
        found = translator.translate([line], beam=beam, length_penalty=0.6)[0]
        ids = np.array(found.tokens)
        assert ids[-1] == translator.tokenizer.eos_id
        log_probs = score(translator.tokenizer.encode_source([line])[0], ids, 12)[np.arange(len(ids)), ids]
        assert found.log_prob == pytest.approx(log_probs.sum(), abs=1e-4)
        assert found.score == pytest.approx(found.log_prob / ((5 + len(ids)) / 6) ** 0.6, abs=1e-4)


def test_given_parameters_stand_in_for_the_own(translator, tokenizer):
    other = Translator(translator.model, random_parameters(translator.model, 1), tokenizer, make_config())
    expected = other.translate(LINES)
    assert [each.text for each in expected] != [each.text for each in translator.translate(LINES)]
    assert_same(translator.with_params(other.params).translate(LINES), expected)


@pytest.mark.parametrize("max_positions", [20, 24])
def test_learned_positions_end_where_their_table_ends(tokenizer, max_positions):
    """The longest lines fill the table: padding to a longer row must not look beyond it."""
    small = make_translator(tokenizer, positions="learned", max_positions=max_positions)
    line = " ".join("abcdefgh"[i % 8] for i in range(9))
    assert 8 < len(tokenizer.encode_source([line])[0]) <= 20
    longest = "\u4f60" * 6  # six times three bytes
    assert 18 < len(tokenizer.encode_source([longest])[0]) <= 20
    large = make_translator(tokenizer, positions="learned", max_positions=64)
    for each in (small, large):
        each.config.max_length_extra = 0  # so that the table does not end a translation either
    tables = ("source_positions", "target_positions")
    params = large.params | {name: large.params[name][:max_positions] for name in tables}
    assert_same(small.with_params(params).translate([line, longest]), large.translate([line, longest]))
    assert np.isfinite([each.log_prob for each in small.translate([line, longest])]).all()


def test_a_line_too_long_is_the_sum_of_its_parts(translator):
    long = "a b c d e f g h. " * 3 + "b d f h."
    count = lambda text: len(translator.tokenizer.encode_source([text])[0])  # noqa: E731
    pieces = [piece.text for piece in split_line(long, count, 20)]
    found, *parts = translator.translate([long, *pieces])
    assert found.parts == len(pieces) > 1
    assert found.text == " ".join(part.text for part in parts)
    assert found.tokens == sum((part.tokens for part in parts), ())
    assert found.log_prob == pytest.approx(sum(part.log_prob for part in parts), abs=1e-4)
    assert found.score == pytest.approx(sum(part.score for part in parts), abs=1e-4)


def test_lines_that_look_the_same_have_the_same_translation(transformer, monkeypatch):
    """And the words of a line keep their numbers, those that no model sees included."""
    monkeypatch.setattr(transformer, "alignment_layer", 1)
    plain = "a b c d"
    odd = "\ufeffa\u00a0b \u200b\tc\u00ad \u200b d\u2028"
    (expected, found), alone = transformer.translate([plain, odd], align=True), "\u200b \ufeff"
    assert found._replace(alignment=None, source="") == expected._replace(alignment=None, source="")
    assert (expected.source, found.source) == (plain, odd)
    numbers = [0, 1, 3, 5]  # "a", "b", nothing, "c", nothing, "d"
    assert found.alignment == tuple(sorted((numbers[i], j) for i, j in expected.alignment)) != ()
    assert transformer.translate([alone, ""], align=True) == [Translation("", 0.0, 0.0, (), 0, ())] * 2
    scored = transformer.score([plain, odd], ["h g", "h\u00a0\u200bg"])
    assert scored[1].log_prob == scored[0].log_prob and scored[1].text == "h\u00a0\u200bg"
    rules = dict(prefixes=["h g"], phrases=[["f g"]], terminology={"b c": "g g"})
    disguised = dict(prefixes=["\u200bh\u00a0g"], phrases=[["f\tg"]], terminology={"b\u00a0\u200bc": "g\u2003g"})
    assert_same(transformer.translate(["a b c"], **rules), transformer.translate(["a b\u3000c"], **disguised))


def test_each_sentence_by_itself(transformer, monkeypatch):
    monkeypatch.setattr(transformer, "alignment_layer", 1)
    lines = ["a ab. C d e!  F", "a b", "", "A e.g. bc. C? \u200b D"]
    pieces = [["a ab.", "C d e!", "F"], ["a b"], [], ["A e.g. bc.", "C?", "D"]]
    more = dict(align=True)
    found = transformer.translate(lines, prefixes=["h", "", "", ""], split_sentences="always", **more)
    prefixes = ["h", "", "", "", "", "", ""]  # the first sentence has it
    parts = iter(transformer.translate(list(itertools.chain(*pieces)), prefixes=prefixes, **more))
    for line, of_line, whole in zip(lines, pieces, found, strict=True):
        of_line = [next(parts) for _ in of_line]
        assert whole.parts == len(of_line) and not whole.too_long
        gaps = [" ", "  ", ""] if len(of_line) > 1 else [""]
        assert whole.text == "".join(part.text + gap for part, gap in zip(of_line, gaps, strict=False) if part.text)
        assert whole.tokens == sum((part.tokens for part in of_line), ())
        assert whole.token_log_probs == sum((part.token_log_probs for part in of_line), ())
        assert all(i < len(line.split()) and j < len(whole.text.split()) for i, j in whole.alignment)
        assert len(whole.alignment) == sum(len(part.alignment) for part in of_line)
    assert [each.parts for each in transformer.translate(lines, split_sentences="never")] == [1, 1, 0, 1]


def test_pieces_of_a_long_line_have_the_usual_length(transformer, monkeypatch):
    line = "a b c. D e f. G h a. B c d. E f g. H a b."
    count = lambda text: len(transformer.tokenizer.encode_source([text])[0])  # noqa: E731
    monkeypatch.setattr(transformer, "usual_length", count("a b c."))
    pieces = [piece.text for piece in split_line(line, count, 20, usual=count("a b c."))]
    assert len(pieces) >= 6 and count(line) > 20
    found, *parts = transformer.translate([line, *pieces])
    assert found.too_long and found.parts == len(pieces)
    assert found.text == " ".join(part.text for part in parts if part.text)
    word = "\u4f60" * 30
    whole, cut = (transformer.translate([f"a. {word}"], split_sentences=split)[0] for split in ("never", "always"))
    assert (whole.parts, whole.too_long) == (1, False) and cut.too_long and cut.parts > 2


def test_a_line_that_is_not_to_be_split_must_have_positions(tokenizer):
    translator = make_translator(tokenizer, positions="learned", max_positions=20)
    with pytest.raises(UserError, match=r"'a b c.*has \d+ tokens, the model has positions for 20.*split_sentences"):
        translator.translate(["a", "a b c d e f g h. " * 3], split_sentences="never")


def test_a_line_feed_in_a_translation_is_a_space(translator, monkeypatch):
    """Byte fallback can spell one, and N lines in are N lines out."""
    spelled = types.SimpleNamespace(
        encode_source=translator.tokenizer.encode_source,
        encode_target=translator.tokenizer.encode_target,
        visible=translator.tokenizer.visible,
        unknown_id=translator.tokenizer.unknown_id,
        pieces=translator.tokenizer.pieces,
        pad_id=translator.tokenizer.pad_id,
        decode=lambda rows: ["one\ntwo\rthree" for _ in rows],
    )
    monkeypatch.setattr(translator, "tokenizer", spelled)
    assert translator.translate(["a"])[0].text == "one two three"


def test_the_n_best_are_the_best_in_order_and_each_is_scored_as_search_scored_it(translator):
    found = translator.translate(LINES, beam=4, nbest=4)
    assert_same(found, translator.translate(LINES, beam=4, nbest=1))
    for line, best in zip(LINES, found, strict=True):
        every = [best, *best.others]
        assert len(every) == (4 if line.strip() else 1) and len({each.tokens for each in every}) == len(every)
        assert [each.score for each in every] == sorted((each.score for each in every), reverse=True)
        if not line.strip():
            continue
        scored = translator.score([line] * len(every), [each.tokens for each in every])
        for each, again in zip(every, scored, strict=True):
            assert again.text == each.text and again.tokens == each.tokens
            assert again.log_prob == pytest.approx(each.log_prob, abs=1e-4)
            assert again.score == pytest.approx(each.score, abs=1e-4)
            assert sum(each.token_log_probs) == pytest.approx(each.log_prob, abs=1e-4)
            np.testing.assert_allclose(each.token_log_probs, again.token_log_probs, atol=1e-5)


def test_given_text_is_scored_by_teacher_forcing(transformer):
    score = make_scorer(transformer)
    sources, targets = ["a b c d", "", "e f", "h"], ["b c", "a", "", "f e d c b a " * 5]
    found = transformer.score(sources, targets, length_penalty=1.0)
    for source, target, each in zip(sources, targets, found, strict=True):
        ids = transformer.tokenizer.encode_target([target])[0]
        expected = score(transformer.tokenizer.encode_source([source])[0], ids, 80)[np.arange(len(ids)), ids]
        assert each.text == target and each.tokens == tuple(ids)
        np.testing.assert_allclose(each.token_log_probs, expected, atol=1e-5)
        assert each.log_prob == pytest.approx(expected.sum(), abs=1e-4)
        assert each.score == pytest.approx(expected.sum() / ((5 + len(ids)) / 6), abs=1e-4)
    assert transformer.score([], []) == []


@pytest.mark.parametrize("options", [dict(length_normalization="power"), dict(length_normalization="none", word_reward=0.5)])
def test_scores_by_another_formula_are_those_of_given_text(transformer, options):
    found = transformer.translate(["a b c d", "e f"], beam=3, nbest=3, length_penalty=0.8, **options)
    for line, best in zip(["a b c d", "e f"], found, strict=True):
        every = [best, *best.others]
        scored = transformer.score([line] * 3, [each.tokens for each in every], length_penalty=0.8, **options)
        assert [each.score for each in scored] == pytest.approx([each.score for each in every], abs=1e-4)
        n = len(best.tokens)
        by_hand = best.log_prob / n**0.8 if options["length_normalization"] == "power" else best.log_prob + 0.5 * n
        assert best.score == pytest.approx(by_hand, abs=1e-4)


def test_the_n_best_of_a_line_in_parts_are_the_best_combinations(transformer):
    long = "a b c d e f g h. " * 3 + "b d f h."
    pieces = [piece.text for piece in split_line(long, lambda text: len(transformer.tokenizer.encode_source([text])[0]), 20)]
    found, *parts = transformer.translate([long, *pieces], beam=3, nbest=3)
    every = [[part, *part.others] for part in parts]
    best = sorted((sum(one.score for one in chosen) for chosen in itertools.product(*every)), reverse=True)[:3]
    np.testing.assert_allclose([found.score, *(each.score for each in found.others)], best, rtol=1e-5)
    assert all(each.parts == len(pieces) for each in found.others)


def test_what_phrases_and_prefixes_are_to_the_tokenizer(tokenizer):
    """Whole words but where they are punctuation; once each; spelled after a space, and after what stands before a word."""
    texts = ["a", " a  b ", "?", "( a", "C++", "a b", "", "  ", "1,2", "\u201ea", "a (", "\u00e9"]
    (read,) = read_phrases(tokenizer, [texts])
    assert [each.text for each in read] == ["a", "a b", "?", "( a", "C++", "1,2", "\u201ea", "a (", "\u00e9"]
    assert [each.text for each in read if not each.begins_word] == ["?", "( a"]
    assert [each.text for each in read if not each.ends_word] == ["?", "a ("]
    for each in read:
        assert tokenizer.surfaces.text(each.after_space) == b" " + each.text.encode()
        assert tokenizer.surfaces.text(each.after_other) == each.text.encode()
    assert not any(each.ends_word for each in read_phrases(tokenizer, [texts], "anywhere")[0])
    with pytest.raises(UserError, match="--phrase_ends=end should be one of word, anywhere"):
        read_phrases(tokenizer, [["a"]], "end")
    cases = {"a b": (True, b""), "a (": (False, b""), "a b,": (True, b""), "a b C+": (True, b""), "": (False, b"")}
    for text, (ends_word, rest) in cases.items():
        found = read_prefixes(tokenizer, [text])[0]
        assert (found.ends_word, found.text, found.agreement) == (ends_word, rest, None)
    for text, whole, rest in (("a bc", " a", " bc"), ("a", "", " a"), ("a ", " a", " "), (" a  bc", " a", " bc"), ("", "", "")):
        found = read_prefixes(tokenizer, [text], complete_words=True)[0]
        assert (tokenizer.surfaces.text(found.ids), found.text) == (whole.encode(), rest.encode()) and not found.ends_word


def test_a_text_has_a_phrase_as_whole_words(tokenizer):
    cases = [("Elefant", "Ein Elefant.", True), ("Elefant", "Elefanten", False), ("Elefant", "\u201eElefant\u201c", True)]
    cases += [
        ("Elefant", "Hauselefant Elefanten (Elefant)", True),
        ("a", "ba", False),
        ("a", "b-a", True),
        ("1,2", "1,23", False),
    ]
    cases += [("2", "1.2", False), ("?", "a?", True), ("C++", "C++en", False), ("C++", "C++.", True), ("u", "u\u0308", False)]
    cases += [("a b", "a b", True), ("a b", "a  b", False), ("(", "(a)", True), ("a", "<b>a</b>", True)]
    for phrase, text, expected in cases:
        assert has_phrases(text, read_phrases(tokenizer, [[phrase]])[0]) == expected, (phrase, text)


@pytest.mark.slow
def test_a_translation_begins_with_its_prefix_and_its_other_limits_hold(transformer):
    prefixes = ["b c", "", "x", "h", "", "a", "g f e d c b a " * 6, "", "c", "d"]
    rules = dict(beam=3, nbest=2, min_length_extra=6, min_length_ratio=0.5, no_repeat_ngram=2, max_length_extra=9)
    found = transformer.translate(LINES, prefixes=prefixes, **rules)
    count = lambda text, **more: len(transformer.tokenizer.encode_source([text], **more)[0])  # noqa: E731
    for line, prefix, best in zip(LINES, prefixes, found, strict=True):
        for each in [best, *best.others] if line.strip() else []:
            start = transformer.tokenizer.encode_target([prefix], add_eos=False)[0].tolist()
            assert list(each.tokens[: len(start)]) == start and each.text.startswith(prefix.strip())
            assert len(each.tokens) >= min(6 + count(line) // 2, len(start) + 1)
            assert len(each.tokens) <= max(count(line) + 9, len(start) + 1)
            pairs = list(itertools.pairwise(each.tokens))
            assert not [pair for i, pair in enumerate(pairs) if pair in pairs[:i] and i + 2 > len(start)]
            assert sum(each.token_log_probs) == pytest.approx(each.log_prob, abs=1e-3)
    for i in (0, 3):
        assert_same([found[i]], transformer.translate([LINES[i]], prefixes=[prefixes[i]], **rules))
    greedy = transformer.translate(LINES, prefixes=prefixes, beam=1, no_repeat_ngram=2)
    drawn = transformer.translate(LINES, prefixes=prefixes, temperature=1.0, top_k=1, no_repeat_ngram=2)
    assert_same(greedy, drawn)


@pytest.mark.parametrize("epsilon", [0.0, pytest.param(0.002, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_samples_are_a_function_of_the_sentence_and_the_seed(transformer, epsilon):
    chance = dict(temperature=1.0, nbest=3, epsilon=epsilon)
    found = transformer.translate(LINES[::-1], **chance, tokens=24)
    for i in (0, 3, 5):
        (alone,) = transformer.translate([LINES[::-1][i]], **chance)
        assert_same([found[i]], [alone])
        assert [each.tokens for each in found[i].others] == [each.tokens for each in alone.others]
    drawn = [(each.tokens, *(other.tokens for other in each.others)) for each in found if each.tokens]
    assert all(len(each) == 3 for each in drawn) and any(len(set(each)) == 3 for each in drawn)
    other = transformer.translate(LINES[::-1], **chance, seed=1)
    assert [each.tokens for each in other] != [each.tokens for each in found]
    for line, each in zip(LINES[::-1], found, strict=True):
        if each.tokens:
            assert each.log_prob == pytest.approx(transformer.score([line], [each.tokens])[0].log_prob, abs=1e-4)
    assert_same(transformer.translate(LINES, temperature=1.0, top_k=1), transformer.translate(LINES, beam=1))


def test_coverage_is_what_no_target_token_looked_at(translator):
    """By hand from teacher forcing: beta * sum_j log(min(sum_i p_ij, 1)), p the mean over layers and heads."""
    search, lines = dict(beam=3, nbest=3, coverage_penalty=0.7, length_penalty=0.4), LINES[:4]
    if not has_attention(translator):
        with pytest.raises(UserError, match="no attention"):
            translator.translate(["a b"], **search)
        return
    found = translator.translate(lines, **search)
    assert_same(translator.translate(lines[::-1], **search)[::-1], found)
    for line, best in zip(lines, found, strict=True):
        every = [best, *best.others] if line.strip() else []
        assert [each.score for each in every] == sorted((each.score for each in every), reverse=True)
        penalties = dict(length_penalty=0.4, coverage_penalty=0.7)
        scored = translator.score([line] * len(every), [each.tokens for each in every], **penalties)
        assert [each.score for each in scored] == pytest.approx([each.score for each in every], abs=1e-4)
        if every:
            plain = best.log_prob / ((5 + len(best.tokens)) / 6) ** 0.4
            assert best.score == pytest.approx(plain + 0.7 * coverage_by_hand(translator, line, best.tokens), abs=1e-3)


def has_attention(translator):
    return translator._config.model.family == "transformer" or translator._config.model.attention != "none"


def coverage_by_hand(translator, line, tokens):
    tokenizer, target = translator.tokenizer, np.array(tokens, np.int32)[None]
    source = tokenizer.encode_source([line])[0][None]
    start = np.concatenate([[[tokenizer.decoder_start_id]], target[:, :-1]], axis=1).astype(np.int32)
    ones, places = np.ones_like, lambda row: np.arange(row.shape[1], dtype=np.int32)[None]
    batch = Batch(source, ones(source), places(source), start, target, ones(target), places(target))
    of_batch = functools.partial(translator.model.apply, train=False, mutable=["intermediates"])
    _, sown = jax.jit(of_batch)({"params": translator.params}, batch)
    weights = np.asarray(attention_of(sown["intermediates"])["cross"])  # [L, 1, H, T, S]
    return np.log(np.minimum(weights.mean(axis=(0, 1, 2)).sum(axis=0), 1)).sum()


@pytest.mark.slow
def test_phrases_occur_and_change_no_other_line(transformer):
    phrases = [["g h"], [], ["a"], ["b", "e d"], [], ["c"], ["f f f"], [], [], ["h a b c d e f g", "a"]]
    found = transformer.translate(LINES, phrases=phrases, beam=3, max_length_extra=2)
    free = transformer.translate(LINES, beam=3, max_length_extra=2)
    for line, wanted, each, without in zip(LINES, phrases, found, free, strict=True):
        assert all(phrase in each.text for phrase in wanted) or not line.strip()
        if not wanted or not line.strip():
            assert_same([each], [without])
        elif all(phrase in without.text for phrase in wanted):
            assert each.score >= without.score - 1e-4
        else:
            assert each.text != without.text
    (alone,) = transformer.translate([LINES[3]], phrases=[phrases[3]], beam=3, max_length_extra=2)
    assert_same([found[3]], [alone])
    assert_same(transformer.translate(LINES, terminology={}, beam=3, max_length_extra=2), free)
    with pytest.raises(UserError, match="temperature"):
        transformer.translate(["a"], phrases=[["b"]], temperature=1.0)
    with pytest.raises(UserError, match="'a': no translation has all its phrases"):
        transformer.translate(["b", "a"], phrases=[[], ["g g g"]], beam=2, no_repeat_ngram=1)


@pytest.mark.slow
def test_no_phrase_costs_a_translation_that_has_it_and_none_is_inside_a_word(transformer):
    """Hundreds of lines, whose phrases are words of their translation without phrases, or other letters."""
    lines, random = letters(300, 4, seed=2), np.random.default_rng(2)
    free = transformer.translate(lines, beam=2, nbest=2)
    words = [each.text.split() or ["a"] for each in free]
    phrases = [[" ".join(of_line[i : i + 2])] for of_line in words for i in [random.integers(len(of_line))]]
    phrases = [[*each, random.choice(list("abc"))] if i % 3 == 0 else each for i, each in enumerate(phrases)]
    phrases = [[each for each in of_line if len(transformer.tokenizer.encode_target([each])[0]) < 3] for of_line in phrases]
    found = transformer.translate(lines, phrases=phrases, beam=2)
    kept = 0
    for of_line, each, without in zip(phrases, found, free, strict=True):
        read = read_phrases(transformer.tokenizer, [of_line])[0]
        assert has_phrases(each.text, read)
        natural = [one for one in (without, *without.others) if has_phrases(one.text, read)]
        assert all(each.score >= one.score - 1e-4 for one in natural)
        kept += len(natural) > 0
    assert 100 < kept < 300


def test_an_unfinished_prefix_is_what_the_text_begins_with(transformer):
    prefixes = ["b", "a b c", "", " c ", "", "", "g f e", "\u00e4\u00bd", "c, d", "(a"]
    phrases = [["b a"] if i in (0, 3, 6) else [] for i in range(len(LINES))]
    found = transformer.translate(LINES, prefixes=prefixes, phrases=phrases, complete_words=True, beam=4, nbest=2)
    for line, prefix, wanted, best in zip(LINES, prefixes, phrases, found, strict=True):
        for each in (best, *best.others) if line.strip() else ():
            assert each.text.startswith(prefix.lstrip()) and all(phrase in each.text for phrase in wanted)
            assert each.log_prob == pytest.approx(transformer.score([line], [each.tokens])[0].log_prob, abs=1e-3)


@pytest.mark.slow  # `test_command_lines.py` has a term, too
def test_the_longest_term_of_a_line_counts_and_only_whole_words_are_terms(transformer):
    terms = {"b": "g h", "a b": "d d", "x": "never"}
    termed = transformer.translate(["a b", "b c", "bb"], terminology=terms, beam=2)
    assert "d d" in termed[0].text and "g h" in termed[1].text
    assert_same(termed[2:], transformer.translate(["bb"], beam=2))


def test_where_no_layer_is_known_the_one_that_tells_most_aligns(tokenizer):
    """The same as an evaluation in training finds for these pairs, and then it stays."""
    translator = make_translator(tokenizer, num_layers=3)
    sources, targets = ["a b c d", "c", "h g f e"], ["d c b a", "c", "e f g h"]
    x, y = translator.tokenizer.encode_source(sources), translator.tokenizer.encode_target(targets)
    batch = bucketed_batch(Store.of(x, y), np.arange(3), Shape(3, 8, 8), tokenizer.pad_id, tokenizer.decoder_start_id)
    places = make_eval_step(translator.model, tokenizer.eos_id)(translator.params, batch)[1]
    layer = _best_aligning_layer([_links(batch, np.asarray(places), tokenizer.eos_id)])
    assert translator.alignment_layer == 0 and translator.align([], []) == [] and translator.alignment_layer == 0
    found = translator.align(sources, targets)
    assert translator.alignment_layer == layer and found == translator.align(sources, targets, layer=layer)
    assert len({str(translator.align(sources, targets, layer=each)) for each in (1, 2, 3)}) == 3
    other = layer % 3 + 1
    translator.align_with(other)
    assert translator.align(sources, targets) == translator.align(sources, targets, layer=other)
    for wrong in (0, -1, 4):
        with pytest.raises(UserError, match=f"alignment layer {wrong} should be from 1 to 3"):
            translator.align(sources, targets, layer=wrong)
    with pytest.raises(UserError, match="no attention to the source: it cannot align words"):
        make_translator(tokenizer, **FAMILIES["LSTM"]).align_with(None)


@pytest.mark.slow
def test_an_ensemble_has_the_mean_of_the_probabilities(tokenizer):
    """Of models of different families; of a model with itself it is that model."""
    one, other = (make_translator(tokenizer, **FAMILIES[name]) for name in ("Transformer", "LSTM with attention"))
    both = one.together_with([other])
    found = both.translate(LINES, beam=3)
    assert_same(both.translate(LINES[::-1], beam=3)[::-1], found)
    lines, targets = zip(*[(line, each.tokens) for line, each in zip(LINES, found, strict=True) if each.tokens], strict=True)
    scored = [each.score(lines, targets) for each in (one, other, both)]
    for first, second, together in zip(*scored, strict=True):
        mean = (np.exp(first.token_log_probs) + np.exp(second.token_log_probs)) / 2
        np.testing.assert_allclose(np.exp(together.token_log_probs), mean, rtol=1e-4)
    for each, again in zip([each for each in found if each.tokens], scored[2], strict=True):
        np.testing.assert_allclose(each.token_log_probs, again.token_log_probs, atol=1e-4)
        assert each.log_prob == pytest.approx(again.log_prob, abs=1e-4)
    assert_same(one.together_with([one]).translate(LINES), one.translate(LINES))
    assert both.align(lines, targets, layer=1) == one.align(lines, targets, layer=1)


def test_an_ensemble_has_the_weights_that_are_given(tokenizer):
    one, other = (make_translator(tokenizer, **FAMILIES[name]) for name in ("Transformer", "LSTM with attention"))
    lines = [line for line in LINES if line.strip()]
    targets = [each.tokens for each in one.together_with([other]).translate(lines, beam=1)]
    both = one.together_with([other], [3, 1])
    for first, second, together in zip(*(each.score(lines, targets) for each in (one, other, both)), strict=True):
        mean = 0.75 * np.exp(first.token_log_probs) + 0.25 * np.exp(second.token_log_probs)
        np.testing.assert_allclose(np.exp(together.token_log_probs), mean, rtol=1e-4)
    equal = one.together_with([other], [0.3, 0.3])
    for each, as_before in zip(equal.score(lines, targets), one.together_with([other]).score(lines, targets), strict=True):
        assert each.token_log_probs == as_before.token_log_probs
    for wrong in ([1.0], [1, 2, 3], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")]):
        with pytest.raises(UserError, match="weight"):
            one.together_with([other], wrong)


def by_hand(texts, metric, shares=None):
    """The first text of the highest expected utility, by sacreBLEU."""
    score = {"chrf": CHRF(), "bleu": BLEU(effective_order=True)}[metric].sentence_score
    shares = shares or [1 / len(texts)] * len(texts)
    utilities = [sum(w * score(h, [r]).score for r, w in zip(texts, shares, strict=True)) for h in texts]
    best = max(range(len(texts)), key=lambda i: (round(utilities[i], 6), -i))
    return texts[best], pytest.approx(utilities[best], abs=1e-6)


def all_texts(translation):
    return [translation.text, *(other.text for other in translation.others)]


@pytest.mark.parametrize(
    "choice, search",
    [
        (dict(mbr=6), dict(temperature=1.0, epsilon=0.02, nbest=6)),
        pytest.param(
            dict(mbr=8, mbr_metric="bleu", temperature=0.7, seed=3),
            dict(temperature=0.7, seed=3, nbest=8),
            marks=pytest.mark.slow,
        ),
        pytest.param(dict(mbr=5, mbr_from="beam", beam=2), dict(beam=5, nbest=5), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_candidate_of_minimum_bayes_risk_is_the_one_by_brute_force(transformer, choice, search):
    found = transformer.translate(LINES, **choice)
    for line, each, of_search in zip(LINES, found, transformer.translate(LINES, **search), strict=True):
        if line.strip():
            assert (each.text, each.score) == by_hand(all_texts(of_search), choice.get("mbr_metric", "chrf"))
            assert each.tokens in [one.tokens for one in (of_search, *of_search.others)]
    assert_same(found[::-1], transformer.translate(LINES[::-1], **choice, tokens=24))
    assert_same([found[3]], transformer.translate([LINES[3]], **choice))
    ranked = transformer.translate(LINES, **choice, nbest=3)
    assert_same(found, [each._replace(others=()) for each in ranked])
    for each in ranked:
        assert len(set(all_texts(each))) == len(all_texts(each)) <= 3
        assert [one.score for one in each.others] == sorted((one.score for one in each.others), reverse=True)


@pytest.mark.slow
def test_minimum_bayes_risk_of_pieces_starts_and_phrases(transformer):
    choice = dict(mbr=4, split_sentences="always")
    one, two = "a b c d?", "E f g."
    parts = transformer.translate([one, two], **choice)
    (found,) = transformer.translate([f"{one} {two}"], **choice)
    assert found.parts == 2 and found.tokens == parts[0].tokens + parts[1].tokens
    (found,) = transformer.translate(["a b c d"], prefixes=["d c"], mbr=4)
    assert found.text.startswith("d c")
    with pytest.raises(UserError, match="mbr_from=beam"):
        transformer.translate(["a"], phrases=[["b"]], mbr=4)
    (found,) = transformer.translate(["a"], phrases=[["b"]], mbr=4, mbr_from="beam")
    assert "b" in found.text.split()


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, [1, 3]])
def test_the_candidates_of_an_ensemble_come_from_all_its_models(tokenizer, weights):
    one, other = (make_translator(tokenizer, **FAMILIES[name]) for name in ("Transformer", "LSTM with attention"))
    lines = [line for line in LINES if line.strip()]
    seen = []
    found = one.together_with([other], weights).translate(lines, mbr=4, progress=lambda *counts: seen.append(counts))
    samples = [each.translate(lines, temperature=1.0, epsilon=0.02, nbest=4) for each in (one, other)]
    shares = np.repeat(np.array(weights or [1, 1]) / sum(weights or [1, 1]) / 4, 4).tolist()
    for each, *of_models in zip(found, *samples, strict=True):
        texts = [text for of_model in of_models for text in all_texts(of_model)]
        assert (each.text, each.score) == by_hand(texts, "chrf", shares)
    assert seen == sorted(seen) and seen[-1] == (len(lines), len(lines))


@pytest.mark.parametrize(
    "other",
    [
        dict(positions="learned", max_positions=32),
        pytest.param(dict(positions="sinusoidal"), marks=pytest.mark.slow),
        pytest.param(FAMILIES["LSTM with attention"], marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.slow
def test_an_ensemble_takes_lines_that_are_too_long_for_one_of_its_models(other, tokenizer):
    """In pieces that all can read, whichever of them is named first."""
    short = make_translator(tokenizer, positions="learned", max_positions=12)
    short._config.batch.max_length = 10
    long = make_translator(tokenizer, seed=1, **other)
    lines = ["a b c d e f g h " * 4, "a b", "h g f e d c b a a b"]
    found = [one.together_with([two]).translate(lines, beam=1) for one, two in ((short, long), (long, short))]
    assert_same(*found)
    assert [each.parts for each in found[0]] == [each.parts for each in short.translate(lines, beam=1)]
    assert found[0][0].parts > 1 and long.translate(lines[2:], beam=1)[0].parts == 1


def test_every_row_is_in_one_group_and_a_test_set_has_few_shapes():
    lengths = np.clip(np.random.default_rng(0).lognormal(3.2, 0.5, 3000), 1, 130).astype(int).tolist()
    for count in (1, 7, 300, 3000):
        groups = list(search_groups(lengths[:count], 4096, devices=2, workers=1))
        assert sorted(i for group in groups for i in group.numbers) == list(range(count))
        assert all(lengths[i] <= group.length for group in groups for i in group.numbers)
        assert all(group.slots * group.length <= 4096 and len(group.numbers) <= group.room for group in groups)
        assert [group.length for group in groups] == sorted((group.length for group in groups), reverse=True)
        assert len({group[1:] for group in groups}) <= 4
        fewer = list(search_groups(lengths[:count], 4096, devices=2, workers=1, least=16))
        assert [group[:2] for group in fewer] == [group[:2] for group in groups]
        for (numbers, _, some, _), (_, _, all_slots, _) in zip(fewer, groups, strict=True):
            assert some == all_slots < 32 or some == 16 or len(numbers) >= 3 * some - 2
            assert some <= all_slots and (some == all_slots or len(numbers) < 6 * some)
    assert list(search_groups([], 4096, devices=2, workers=1)) == []


@pytest.mark.parametrize("beam", [1, 4])
def test_rows_that_begin_anew_find_the_program_of_longer_ones(beam):
    """For 1,000 captions two programs are made, and none for the few of them that need more room."""
    lengths = np.clip(np.random.default_rng(0).lognormal(2.7, 0.25, 1000), 4, 48).astype(int).tolist()
    task = dict(tokens=4096 // beam, devices=1, workers=2, least=32 // beam)
    groups = list(search_groups(lengths, **task))
    again = list(search_groups([48, 48, 48], **task, of=1000))
    assert len({group[1:] for group in groups}) == 2
    assert {group[1:] for group in again} < {group[1:] for group in groups}
    (alone,) = search_groups([48], **task)
    assert (alone.slots, alone.room) == (1, 1)  # a sentence alone does not wait for empty rows


def test_a_translation_that_needs_more_room_than_most_is_searched_for_again(transformer, monkeypatch):
    limits = dict(max_length_ratio=4.0, max_length_extra=60, beam=1)
    search_groups, pack_rows, asked = Searcher._search_groups, batched_search.pack_rows, []

    def counted(self, params, pieces, lengths, *arguments):
        asked.append((len(pieces), max(lengths)))
        return search_groups(self, params, pieces, lengths, *arguments)

    def with_full_room(*arguments):
        packed = pack_rows(*arguments)
        return packed._replace(short_length=packed.max_length)

    monkeypatch.setattr(Searcher, "_search_groups", counted)
    found = transformer.translate(LINES, **limits)
    (count, _), *again = asked
    assert 0 < again[-1][0] <= again[0][0] <= count
    # Twice what they were padded to, then four times, but no more than the longest translations need.
    assert [length_batches.padded_length(length, SEARCH_LENGTHS) for _, length in again] == [48, 96][: len(again)]
    assert max(len(each.tokens) for each in found) > 32  # the usual room for at most 24 source tokens

    asked.clear()
    monkeypatch.setattr(batched_search, "pack_rows", with_full_room)
    assert_same(found, transformer.translate(LINES, **limits))
    assert len(asked) == 1


def test_models_of_other_tokenizers_are_no_ensemble(transformer, tmp_path):
    other = Tokenizer.train(letters(50, 8), TokenizerConfig(vocab_size=270), tmp_path)
    with pytest.raises(UserError, match="tokenizer"):
        transformer.together_with([make_translator(other)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"nbest": 3},
        {"nbest": 0},
        {"temperature": -1.0},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"epsilon": 1.0, "temperature": 1.0},
        {"epsilon": -0.1, "temperature": 1.0},
        {"epsilon": 0.02},  # of a search
        {"mbr": 1},
        {"mbr": -2},
        {"mbr_metric": "ter", "mbr": 4},
        {"mbr_from": "beams", "mbr": 4},
        {"mbr_metric": "bleu"},  # of no candidates
        {"mbr_from": "beam"},
        {"nbest": 5, "mbr": 4},
        {"temperature": 1.0, "mbr": 4, "mbr_from": "beam"},
        {"epsilon": 0.1, "mbr": 4, "mbr_from": "beam"},
        {"coverage_penalty": 0.2, "mbr": 4},
        {"beam": 0},
        {"beam": -1},
        {"length_penalty": -1.0},
        {"coverage_penalty": -1.0},
        {"coverage_penalty": 0.2, "beam": 1},
        {"length_penalty": float("nan")},
        {"tokens": -1},
    ],
)
def test_values_that_cannot_be_are_told(translator, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        translator.translate(["a"], **wrong)


def test_a_beam_wider_than_the_vocabulary_searches_what_there_is(translator):
    found = translator.translate(["a"], beam=300)[0]
    assert found.score >= translator.translate(["a"], beam=1)[0].score - 1e-4


def test_a_batch_too_large_for_memory_says_what_to_lower(translator, monkeypatch):
    def search(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 140737488355344 bytes.")

    monkeypatch.setattr(translator._searcher, "_search", search)
    with pytest.raises(UserError, match=r"lower decode\.tokens=4096"):
        translator.translate(["a"])


@pytest.mark.slow
def test_progress_counts_the_lines_that_are_done(transformer, monkeypatch):
    monkeypatch.setattr(length_batches, "QUEUE", 8)  # several searches
    lines, seen = ["a b", "h g f e d c b a h g f e d c b a"] * 20, []
    expected = transformer.translate(lines, tokens=64)
    assert transformer.translate(lines, tokens=64, progress=lambda *counts: seen.append(counts)) == expected
    done = [count for count, _ in seen]
    assert len(done) > 1 and done == sorted(done) and done[-1] == len(lines) and {total for _, total in seen} == {len(lines)}


@pytest.mark.parametrize("beam", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_search_of_a_model_by_hand_finds_what_the_translator_finds(translator, beam):
    lines, tokenizer = ["a b", "h g f e", "c"], translator.tokenizer
    batch, search = Batch.of(lines, [""] * len(lines), tokenizer), beam_search if beam > 1 else greedy_search

    @jax.jit
    def find(params, batch):
        step, queue = search_inputs(translator.model, params, batch, length=12, beam=beam)
        return search(step, queue, tokenizer.special_ids, SearchOptions(beam=beam), length=12)

    found = find(translator.params, batch)
    expected = translator.translate(lines, beam=beam, length_penalty=SearchOptions().length_penalty, max_length_extra=50)
    for tokens, one in zip(found.tokens[:, 0].tolist(), expected, strict=True):
        if len(one.tokens) < 12:  # else the other limit ended it
            assert [token for token in tokens if token != tokenizer.pad_id] == list(one.tokens)
