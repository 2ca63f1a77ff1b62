"""Where a system is good and where not: parts of a test set, words that training never had, the worst sentences."""

import gzip
import random

import numpy as np
import pytest
import sacrebleu

from transformer_jax.config import DataConfig
from transformer_jax.data import demo
from transformer_jax.data import training_words as words_module
from transformer_jax.data.corpus import Pairs
from transformer_jax.data.training_words import vocabulary_of, words_of, words_outside
from transformer_jax.errors import UserError
from transformer_jax.evaluation.analysis import analyse, sentence_chrf, training_targets, unseen_words
from transformer_jax.evaluation.metrics import score

EXAMPLES = demo.generate("train", 40)
PAIRS = Pairs([example.source for example in EXAMPLES], [example.target for example in EXAMPLES])
HYPOTHESES = [line.replace("der", "die", 1) if i % 3 else line for i, line in enumerate(PAIRS.target)]


def test_every_sentence_is_in_one_group_of_its_length_and_scored_with_the_others_there():
    analysis = analyse(HYPOTHESES, PAIRS, None, "", bootstrap=100)
    assert sum(group.sentences for group in analysis.by_length) == len(HYPOTHESES)
    (middle,) = [group for group in analysis.by_length if group.label == "6 to 10"]
    inside = [i for i, line in enumerate(PAIRS.source) if 6 <= len(words_of(line)) <= 10]
    (bleu, *_) = score([HYPOTHESES[i] for i in inside], [PAIRS.target[i] for i in inside], bootstrap=100)
    assert (middle.sentences, middle.bleu, middle.interval) == (len(inside), bleu.value, bleu.interval)


@pytest.mark.parametrize("words, label", [(0, "up to 5"), (5, "up to 5"), (6, "6 to 10"), (60, "41 to 60"), (61, "over 60")])
def test_lengths_at_the_edges(words, label):
    analysis = analyse(["a b"], Pairs([" ".join(["x"] * words)], ["a b c d"]), None, "", bootstrap=100)
    (group,) = analysis.by_length
    # One sentence has no interval: all of its resamples are itself.
    assert (group.label, group.sentences, group.length_ratio, group.interval) == (label, 1, 0.5, None)


def test_groups_by_unseen_words_of_the_reference():
    references = ["a b", "a x", "x x x x", "a y z", "x, y."]
    analysis = analyse(references, Pairs(references, references), {"x", "y", "z"}, "mine")
    assert analysis.unseen == [0, 1, 4, 2, 2]
    assert [(group.label, group.sentences) for group in analysis.by_unseen] == [("0", 1), ("1", 1), ("2", 2), ("3 or more", 1)]
    assert "mine does not have" in analysis.as_text()
    without = analyse(references, Pairs(references, references), None, "no such file")
    assert without.by_unseen is None and without.unseen is None and "no such file" in without.as_text()


def test_the_worst_sentences_have_their_line_numbers():
    hypotheses = ["", *PAIRS.target[1:30], "Unsinn", *PAIRS.target[31:39], "", ""]
    pairs = Pairs([*PAIRS.source, ""], [*PAIRS.target, ""])
    analysis = analyse(hypotheses, pairs, None, "")
    assert [(each.line, each.chrf) for each in analysis.worst[:2]] == [(1, 0.0), (40, 0.0)]
    assert (analysis.worst[2].line, analysis.worst[2].hypothesis, analysis.worst[2].reference) == (
        31,
        "Unsinn",
        PAIRS.target[30],
    )
    assert len(analysis.worst) == 20 and analysis.sentence_chrf[-1] == 100  # nothing for nothing is right
    assert "line 31, chrF" in analysis.as_text()
    assert sentence_chrf("Ein Hund", "Der Hund") == sacrebleu.sentence_chrf("Ein Hund", ["Der Hund"]).score


def test_words_are_sacrebleus():
    tokenizer = sacrebleu.BLEU(tokenize="13a").tokenizer
    for line in [
        *PAIRS.target,
        " a.b , c., .d 3,5 3.000-mal 3-4 x- &quot;q&quot; (r)/s U.S.A. ",
        "\u201eJa\u201c\u2026 \u2013 10%",
    ]:
        assert words_of(line) == tokenizer(line).split()


def test_words_of_all_the_training_text_are_known(tmp_path):
    (tmp_path / "one.en").write_text("a\nb\n")
    (tmp_path / "one.de").write_text("alpha, beta\ngamma " + "zuviel " * 99 + "\n")
    (tmp_path / "two.tsv.gz").write_bytes(gzip.compress(b"c\tdelta\n\tepsilon\n"))
    data = DataConfig(train=f"{tmp_path}/one * 2 (tag=<x> max_ratio=3), {tmp_path}/two.tsv.gz", deduplicate=True)
    assert list(training_targets(data)) == ["alpha, beta", "delta"]  # what cleaning leaves
    references = ["alpha beta gamma", "delta, epsilon!"]
    assert unseen_words(references, training_targets(data)) == {"gamma", "epsilon", "!"}
    (tmp_path / "one.de").unlink()
    with pytest.raises(UserError, match="one"):
        list(training_targets(data))


ODD = "a.b 1.5 3,5 5. .5 ... a&quot;b &amp; x-y 1-2 (a) {b} \u00a0\u3000 ½ „a“ a\u2028b".split(" ")
ODD += "'' -- <skipped> don't a/b @-@ , .a 5- é. 2.a a,5".split(" ")


def test_all_words_of_a_text_at_once_are_those_of_its_lines():
    draw = random.Random(0)
    lines = [" ".join(draw.choices(ODD, k=draw.randint(0, 9))) for _ in range(500)] + ["", " "]
    words = {word for line in lines for word in words_of(line)}
    vocabulary = vocabulary_of(lines)
    assert len(vocabulary) == len(words) and (np.diff(vocabulary) > 0).all() and vocabulary.dtype == np.uint64
    assert words_outside(vocabulary, [*lines, "a new word", ""]) == {"new", "word"} - words
    assert len(vocabulary_of([])) == 0 and words_outside(vocabulary_of([]), ["a b"]) == {"a", "b"}


def test_words_of_a_text_with_many_are_collected_in_parts(monkeypatch):
    lines = [f"w{i} v{i % 7}" for i in range(100)]
    expected = vocabulary_of(lines)
    monkeypatch.setattr(words_module, "CHUNK", 10)
    monkeypatch.setattr(words_module, "_MOST_PARTS", 15)
    np.testing.assert_array_equal(vocabulary_of(lines), expected)
