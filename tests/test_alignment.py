"""Attention to word alignments: links, Pharaoh's format, the error rate, the layer that aligns best."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import letters, random_parameters, tiny_model

from transformer_jax.config import Config, TokenizerConfig
from transformer_jax.data import demo
from transformer_jax.errors import UserError
from transformer_jax.inference.alignment import (
    alignment_error_rate,
    hard_alignment,
    join_links,
    mutual_information,
    pharaoh,
    word_links,
)
from transformer_jax.inference.translator import Translator
from transformer_jax.models.attention_weights import attention_name
from transformer_jax.models.seq2seq import build_model
from transformer_jax.tokenization.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("quick_compilation")
EOS = 1


def test_hard_alignment_is_the_mean_of_heads_and_never_an_end():
    weights = np.zeros((1, 2, 2, 4), np.float32)  # [B, H, T, S]
    weights[0, 0] = [[0.4, 0.3, 0.3, 0], [0.1, 0.1, 0.8, 0]]
    weights[0, 1] = [[0.1, 0.6, 0.3, 0], [0.1, 0.2, 0.7, 0]]
    sown = {"intermediates": {attention_name("cross", 0): (jnp.asarray(weights),)}}
    source = jnp.array([[7, 8, EOS, 0]])
    assert hard_alignment(sown, source, EOS).tolist() == [[[1, 1]]]
    assert hard_alignment({}, source, EOS) is None


def test_no_links_from_or_to_an_end():
    assert word_links(np.array([2, 0]), np.array([0, 0, -1]), np.array([0, -1])) == ()
    assert pharaoh(()) == ""


@pytest.mark.parametrize("seed", range(10))
def test_joined_links_point_to_the_same_letters(seed):
    """Cut a line anywhere, even inside words: the words that are linked are still those that hold the linked letters."""
    random = np.random.default_rng(seed)
    line = "".join(random.choice(list("abc  "), 40)).strip()
    cuts = sorted(random.choice(np.arange(1, len(line)), 3, replace=False))
    parts = [part.strip() for part in np.array_split(list(line), cuts) for part in ["".join(part)] if part.strip()]
    targets = ["x y "] * len(parts)
    links = [tuple((word, word % 2) for word in range(len(part.split()))) for part in parts]
    whole = line.split()
    for source, target in join_links(line, parts, targets, links):
        part = parts[target // 2].split()
        assert any(piece in whole[source] for number, piece in enumerate(part) if number % 2 == target % 2)
    assert len(join_links(line, parts, targets, links)) >= len(whole)


def test_error_rate_counts_over_the_whole_set():
    gold = [((0, 0), (1, 1)), ((0, 0),)]
    assert alignment_error_rate(gold, gold) == 0
    assert alignment_error_rate([((1, 0),), ((0, 1),)], gold) == 1
    assert alignment_error_rate([((0, 0),), ((0, 0), (1, 0))], gold) == pytest.approx(1 - 2 * 2 / 6)
    with pytest.raises(ValueError):
        alignment_error_rate([()], [()])
    with pytest.raises(ValueError):
        alignment_error_rate(gold[:1], gold)


def test_mutual_information_is_zero_for_independent_and_entropy_for_equal():
    random = np.random.default_rng(0)
    x, y = random.integers(0, 4, (2, 100_000))
    assert mutual_information(x, y) == pytest.approx(0, abs=1e-3)
    assert mutual_information(x, 9 - x) == pytest.approx(np.log(4), abs=1e-3)
    assert mutual_information([], []) == 0


def test_the_true_alignment_tells_more_than_any_other():
    """What makes the measure fit to choose a layer by: the better the links, the higher it is."""
    examples = demo.generate("dev", 200)
    words = [(example.source.lower().split(), example.target.lower().split(), example.alignment) for example in examples]

    def information(noise: float) -> float:
        random, pairs = np.random.default_rng(0), []
        for source, target, links in words:
            pairs += [(source[random.integers(len(source)) if random.random() < noise else i], target[j]) for i, j in links]
        return mutual_information(*(np.unique(side, return_inverse=True)[1] for side in zip(*pairs, strict=True)))

    values = [information(noise) for noise in (0.0, 0.25, 0.5, 1.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 1.2 * values[-1]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), tmp_path_factory.mktemp("tokenizer"))


def make_translator(tokenizer, layer=1, **model_changes) -> Translator:
    config = Config()
    config.model = tiny_model(**model_changes)
    config.batch.max_length, config.decode.beam, config.decode.max_length_ratio = 20, 1, 1.0
    config.decode.max_length_extra = 3
    model = build_model(config.model, tokenizer.vocab_size)
    return Translator(model, random_parameters(model), tokenizer, config, layer)


LINES = ["a b c", "", "d", "h g f e d c b a", "a " * 30]


@pytest.mark.parametrize(
    "changes", [{}, pytest.param(dict(family="lstm"), marks=pytest.mark.slow), dict(family="lstm", input_feeding=True)], ids=str
)
def test_an_alignment_is_the_argmax_of_the_line_alone(tokenizer, changes):
    translator = make_translator(tokenizer, **changes)
    found = translator.translate(LINES, align=True)
    assert [each.text for each in found] == [each.text for each in translator.translate(LINES)]
    assert found[1].alignment == () and found[-1].parts > 1
    for line, translation in zip(LINES, found, strict=True):
        assert all(0 <= i < len(line.split()) and 0 <= j < len(translation.text.split()) for i, j in translation.alignment)
    assert translator.translate(LINES[:1], align=True)[0].alignment == found[0].alignment
    single = [(line, each) for line, each in zip(LINES, found, strict=True) if each.parts == 1]
    again = translator.align([line for line, _ in single], [each.tokens for _, each in single])
    assert again == [each.alignment for _, each in single]
    assert all(each.alignment is None for each in translator.translate(LINES))


def test_layers_differ_and_those_that_are_not_there_are_told(tokenizer):
    translator = make_translator(tokenizer, num_layers=2)
    sources = letters(30, 8, seed=3)
    first, second = (translator.align(sources, sources[::-1], layer=layer) for layer in (1, 2))
    assert first != second
    for links, target in zip(first, sources[::-1], strict=True):
        assert {j for _, j in links} == set(range(len(target.split())))  # every target word has its link
    for layer in (0, 3):
        with pytest.raises(UserError, match=f"layer {layer} should be from 1 to 2"):
            translator.align(["a"], ["b"], layer=layer)


@pytest.mark.parametrize("max_positions", [20, 64])
def test_learned_positions_align_up_to_the_end_of_their_table(tokenizer, max_positions):
    """Padding beyond the table would be NaN, and so would every weight that it is multiplied with."""
    translator = make_translator(tokenizer, positions="learned", max_positions=64)
    tables = ("source_positions", "target_positions")
    cut = translator.params | {name: translator.params[name][:max_positions] for name in tables}
    small = make_translator(tokenizer, positions="learned", max_positions=max_positions)
    lines = ["\u4f60" * 6, "h g"]
    assert 16 < len(tokenizer.encode_source(lines)[0]) <= 20  # padded to more than 20
    assert small.with_params(cut).align(lines, lines[::-1]) == translator.align(lines, lines[::-1])
    with pytest.raises(UserError, match=f"too long for model.max_positions={max_positions}"):
        small.align(["a " * 70], ["a"])


def test_a_model_without_attention_cannot_align(tokenizer):
    with pytest.raises(UserError, match="no attention to the source"):
        make_translator(tokenizer, family="lstm", attention="none").align(["a"], ["b"])
