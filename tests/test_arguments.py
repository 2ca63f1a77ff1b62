"""What the Python API says to wrong arguments: a string in place of a list, lists of unequal lengths, unknown options."""

import numpy as np
import pytest
from helpers import FAMILIES, letters, random_parameters, tiny_model

from transformer_jax.config import Config, TokenizerConfig
from transformer_jax.data.batching import Batch
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.data.store import open_store
from transformer_jax.errors import UserError
from transformer_jax.evaluation.metrics import score
from transformer_jax.evaluation.report import evaluate
from transformer_jax.evaluation.significance import differences
from transformer_jax.inference.alignment import alignment_error_rate
from transformer_jax.inference.attention import attention_maps
from transformer_jax.inference.terminology import Terminology
from transformer_jax.inference.translator import Translator
from transformer_jax.models.seq2seq import build_model
from transformer_jax.tokenization.tokenizer import Tokenizer

LINES = ["a b", "c"]
ALONE = "not the string 'a b' alone; write ['a b']"


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    tokenizer = Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), tmp_path_factory.mktemp("tokenizer"))
    config = Config(model=tiny_model(**FAMILIES["LSTM with attention"]))
    model = build_model(config.model, tokenizer.vocab_size)
    return Translator(model, random_parameters(model), tokenizer, config)


CALLS = {
    "lines": (lambda t: t.translate("a b"), f"lines should be a list of strings, {ALONE}"),
    "bytes": (lambda t: t.translate(b"a b"), "lines should be a list of strings, not the bytes 'a b' alone"),
    "no list": (lambda t: t.translate(3), "lines should be a list of strings, not 3 of type int"),
    "a dict": (lambda t: t.translate({"a": 1}), "lines should be a list of strings, not {'a': 1} of type dict"),
    "a number in it": (lambda t: t.translate(["a", 1]), "lines[1] should be a string, not 1 of type int"),
    "a list in it": (lambda t: t.translate([["a"]]), "lines[0] should be a string, not ['a'] of type list"),
    "prefixes": (lambda t: t.translate(["a"], prefixes="a b"), f"prefixes should be a list of strings, {ALONE}"),
    "phrases": (lambda t: t.translate(["a"], phrases="a b"), "phrases should be a list of lists of strings, not the string"),
    "a line's phrases": (lambda t: t.translate(["a"], phrases=["a b"]), f"phrases[0] should be a list of strings, {ALONE}"),
    "terminology": (lambda t: t.translate(["a"], terminology=[("a", "b")]), "terminology should be a dict from terms to"),
    "a term": (lambda t: t.translate(["a"], terminology={"a": 1}), "expected a string for a string, found 'a': 1"),
    "an option": (lambda t: t.translate(["a"], beams=4), "translate() has no option 'beams' (did you mean beam?)"),
    "an argument": (lambda t: t.translate(["a"], prefix=["b"]), "no option 'prefix' (did you mean prefixes?)"),
    "nothing near": (lambda t: t.translate(["a"], zzz=1), "no option 'zzz' (it has beam, length_penalty,"),
    "search_config": (lambda t: t.search_config(beem=2), "search_config() has no option 'beem' (did you mean beam?)"),
    "score's sources": (lambda t: t.score("a b", ["a"]), f"sources should be a list of strings, {ALONE}"),
    "score's targets": (lambda t: t.score(["a"], "a b"), "targets should be a list of strings or rows of tokens, not the str"),
    "words as a target": (lambda t: t.score(["a"], [["a", "b"]]), "targets[0] should be a string, or the tokens of a trans"),
    "fractions as tokens": (lambda t: t.score(["a"], [[1.5]]), "targets[0] should be a string, or the tokens of a translation"),
    "align": (lambda t: t.align("a b", "a b"), f"sources should be a list of strings, {ALONE}"),
    "evaluate": (lambda t: evaluate(t, "a b", "a", test="", checkpoint=""), f"source should be a list of strings, {ALONE}"),
    "evaluate's": (lambda t: evaluate(t, ["a"], ["a"], test="", checkpoint="", bean=3), "evaluate() has no option 'bean'"),
    "metrics": (lambda t: score("a b", "a"), f"hypotheses should be a list of strings, {ALONE}"),
    "references": (lambda t: score(["a"], "a b"), f"references should be a list of strings, {ALONE}"),
    "differences": (lambda t: differences(["a"], ["a"], "a b"), f"references should be a list of strings, {ALONE}"),
    "encode": (lambda t: t.tokenizer.encode_source("a b"), f"lines should be a list of strings, {ALONE}"),
    "decode": (lambda t: t.tokenizer.decode("a b"), "rows should be a list of rows of ids, not the string 'a b'"),
    "maps": (lambda t: attention_maps(t.model, t.params, t.tokenizer, ["a"], "b"), "source[0] should be a string, not ['a']"),
    "attention": (lambda t: t.attention(["a"]), "source should be one line, a string, not ['a']"),
    "batch": (lambda t: Batch.of(["a"], "a b", t.tokenizer), f"targets should be a list of strings, {ALONE}"),
    "normalized": (lambda t: t.tokenizer.normalized("a b"), f"lines should be a list of strings, {ALONE}"),
    "visible": (lambda t: t.tokenizer.visible("a b"), f"lines should be a list of strings, {ALONE}"),
    "pieces": (lambda t: t.tokenizer.pieces("a b"), "ids should be a list of ids, not the string 'a b'"),
    "words": (lambda t: t.tokenizer.words("a b"), "ids should be a list of ids, not the string 'a b'"),
    "train": (lambda t: Tokenizer.train("a b", TokenizerConfig(), "nowhere"), f"lines should be a list of strings, {ALONE}"),
    "store": (lambda t: open_store(Pairs("a b", "c"), t.tokenizer), f"source should be a list of strings, {ALONE}"),
    "pairs": (lambda t: read_pairs(["a"], "en", "de"), "named by a string such as 'data/train', not by ['a']"),
    "terms": (lambda t: Terminology("a b"), "terms should be a dict from terms to their translations, not 'a b'"),
    "links": (lambda t: alignment_error_rate(["0-0"], [((0, 0),)]), "found[0] should be a list of links such as (0, 1), not"),
    "checkpoint": (lambda t: Translator.load("nowhere", 1500), "checkpoint should be a string, such as 'best' or '1500'"),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_wrong_kind_is_a_type_error_that_says_what_was_expected(what, translator):
    call, message = CALLS[what]
    with pytest.raises(TypeError) as error:
        call(translator)
    assert message in str(error.value) and "\n" not in str(error.value)


UNEQUAL = {
    "prefixes": (lambda t: t.translate(LINES, prefixes=["a"]), "prefixes: 1 for 2 lines; expected one for each"),
    "no prefixes": (lambda t: t.translate(LINES, prefixes=[]), "prefixes: 0 for 2 lines; expected one for each"),
    "phrases": (lambda t: t.translate(["a"], phrases=[["a"], ["b"]]), "phrases: 2 for 1 lines; expected one for each"),
    "targets": (lambda t: t.score(LINES, ["a"]), "targets: 1 for 2 sources; expected one for each"),
    "align": (lambda t: t.align(LINES, []), "targets: 0 for 2 sources; expected one for each"),
    "other tokens": (lambda t: t.score(["a"], [[5, 276]]), "targets[0]: expected tokens from 0 to 275, found 5 to 276"),
    "negative tokens": (lambda t: t.score(["a"], [[-1]]), "targets[0]: expected tokens from 0 to 275, found -1 to -1"),
    "no token": (lambda t: t.score(["a"], [[]]), "targets[0] has no token; a translation ends with EOS"),
    "resamples": (lambda t: score(["a"], ["a"], bootstrap=10**12), "bootstrap=1000000000000 should be at most 100,000"),
}


@pytest.mark.parametrize("what", UNEQUAL)
def test_what_does_not_go_together_is_a_user_error(what, translator):
    call, message = UNEQUAL[what]
    with pytest.raises(UserError) as error:
        call(translator)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "lines", [tuple(LINES), iter(LINES), (line for line in LINES), np.array(LINES), np.array(LINES, object)]
)
def test_lines_may_be_any_list_iterator_or_array(translator, lines):
    assert translator.translate(lines) == translator.translate(LINES)


def test_what_is_drawn_depends_on_each_bit_of_the_seed(translator):
    def draw(seed: int) -> list[str]:
        return [each.text for each in translator.translate(["a b c d"] * 2, temperature=1.0, seed=seed)]

    assert draw(1) == draw(1) != draw((1 << 32) + 1) != draw((1 << 63) + 1)


def test_prefixes_and_phrases_may_be_any_sequence_or_iterator(translator):
    lists = translator.translate(LINES, prefixes=["e", ""], phrases=[["f g"], ["h"]])
    assert translator.translate(LINES, prefixes=("e", ""), phrases=[("f g",), iter(["h"])]) == lists
    assert lists[0].text.startswith("e") and "f g" in lists[0].text and "h" in lists[1].text
