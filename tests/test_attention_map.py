"""Attention from the model to a picture."""

import sys
import types

import jax
import numpy as np
import pytest
from helpers import FAMILIES, letters, random_parameters, tiny_model
from PIL import Image

from transformer_jax.config import Config, TokenizerConfig
from transformer_jax.errors import UserError
from transformer_jax.inference.attention import AttentionMap, attention_maps
from transformer_jax.inference.translator import Translator
from transformer_jax.models.seq2seq import build_model
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.visualization.attention_maps import draw

pytestmark = pytest.mark.usefixtures("quick_compilation")
MAP = AttentionMap("cross", ("\u2581b", "c", "(end)"), ("\u2581a", "(end)"), np.full((1, 2, 3, 2), 0.5, np.float32))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tokenizer):
    return build_model(tiny_model(num_layers=2), tokenizer.vocab_size)


def test_weights_are_shares_for_each_piece(model, tokenizer):
    found = attention_maps(model, random_parameters(model), tokenizer, "a b c d", "c a b")
    source, target = (
        tuple(
            piece.replace("\u2581", " ").replace("</s>", "(end)")
            for piece in tokenizer.pieces(tokenizer.encode_source([text])[0])
        )
        for text in ("a b c d", "c a b")
    )
    expected = {"cross": (target, source), "encoder": (source, source), "decoder": (target, ("(start)", *target[:-1]))}
    assert {kind: (each.queries, each.keys) for kind, each in found.items()} == expected
    for kind, each in found.items():
        assert each.kind == kind and each.weights.shape == (2, 2, len(each.queries), len(each.keys))
        assert (each.weights >= 0).all() and each.weights.std() > 0
        np.testing.assert_allclose(each.weights.sum(axis=-1), 1, atol=1e-5)
    assert (np.triu(found["decoder"].weights, 1) == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_shows_what_it_has(family, tokenizer):
    model = build_model(tiny_model(**FAMILIES[family]), tokenizer.vocab_size)
    found = attention_maps(model, random_parameters(model), tokenizer, "a b", "c")
    kinds = {"Transformer": {"cross", "encoder", "decoder"}, "Transformer with SSRU": {"cross", "encoder"}, "LSTM": set()}
    assert found.keys() == kinds.get(family, {"cross"})


def test_a_translations_own_tokens_are_as_good_as_its_text(model, tokenizer):
    params = random_parameters(model)
    tokens = tokenizer.encode_target(["c a b"])[0]
    text, ids = (attention_maps(model, params, tokenizer, "a b", target)["cross"] for target in ("c a b", tuple(tokens)))
    assert text.queries == ids.queries
    np.testing.assert_array_equal(text.weights, ids.weights)


def test_a_row_does_not_depend_on_what_comes_after_it(model, tokenizer):
    """Teacher forcing of the whole is what decoding saw."""
    params = random_parameters(model)
    short, long = (attention_maps(model, params, tokenizer, "a b", text)["cross"].weights for text in ("c", "c a b h"))
    np.testing.assert_allclose(long[:, :, : short.shape[2]], short, atol=1e-5)


def test_words_have_the_sum_of_their_keys_and_the_mean_of_their_queries(model, tokenizer):
    """The Chinese character is three bytes, and so three pieces or more."""
    params, source, target = random_parameters(model), "ab \u4f60 c", "\u4f60 a"
    pieces, words = (attention_maps(model, params, tokenizer, source, target, words=words) for words in (False, True))
    assert words["cross"].keys == ("ab", "\u4f60", "c", "(end)") and words["cross"].queries == ("\u4f60", "a", "(end)")
    assert words["decoder"].keys == ("(start)", "\u4f60", "a")
    of_source = tokenizer.words(tokenizer.encode_source([source])[0])
    of_target = tokenizer.words(tokenizer.encode_target([target])[0])
    found, whole = words["cross"].weights, pieces["cross"].weights
    for query, rows in enumerate([of_target == 0, of_target == 1, of_target == -1]):
        for key, columns in enumerate([of_source == 0, of_source == 1, of_source == 2, of_source == -1]):
            expected = whole[:, :, rows][:, :, :, columns].sum(axis=3).mean(axis=2)
            np.testing.assert_allclose(found[:, :, query, key], expected, atol=1e-6)
    for each in words.values():
        np.testing.assert_allclose(each.weights.sum(axis=-1), 1, atol=1e-5)


def test_queries_without_weights_look_everywhere_alike(model, tokenizer):
    def zero(path, leaf):
        keys = jax.tree_util.keystr(path)
        return np.zeros_like(leaf) if "cross_attention" in keys and "query" in keys else leaf

    params = jax.tree_util.tree_map_with_path(zero, random_parameters(model))
    found = attention_maps(model, params, tokenizer, "a b c", "d")["cross"]
    np.testing.assert_allclose(found.weights, np.full_like(found.weights, 1 / len(found.keys)), atol=1e-6)


def test_one_layer_one_head_or_the_mean():
    weights = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    each = AttentionMap("cross", tuple("abcd"), tuple("abcde"), weights)
    np.testing.assert_allclose(each.mean(), weights.mean(axis=(0, 1)), rtol=1e-6)
    np.testing.assert_array_equal(each.mean(layer=2, head=1), weights[1, 0])
    np.testing.assert_allclose(each.mean(layer=1), weights[0].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(each.mean(head=3), weights[:, 2].mean(axis=0), rtol=1e-6)
    for wrong, message in (({"layer": 3}, "layer 3 should be from 1 to 2"), ({"head": -1}, "head -1 should be from 1 to 3")):
        with pytest.raises(UserError, match=message):
            each.mean(**wrong)


@pytest.mark.parametrize("ending, start", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_picture_has_the_format_of_its_ending(tmp_path, ending, start):
    draw(MAP, tmp_path / f"map.{ending}")
    assert (tmp_path / f"map.{ending}").read_bytes().startswith(start)


def test_the_picture_has_room_for_long_words_and_for_what_the_shades_mean(tmp_path):
    for name, word in (("short", "a"), ("long", "a" * 100)):
        draw(AttentionMap("cross", (word,), (word,), np.ones((1, 1, 1, 1), np.float32)), tmp_path / f"{name}.png")
    sizes = []
    for name in ("short", "long"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("L"))
        sizes.append(pixels.shape)
        for edge in (pixels[:5], pixels[-5:], pixels[:, :5], pixels[:, -5:]):
            assert (edge == 255).all()  # nothing is cut off there
    short, long = sizes
    assert all(more > less + 500 for more, less in zip(long, short, strict=True))


@pytest.mark.parametrize("name", ["no/such/folder/map.png", "map.doc"])
def test_a_file_that_cannot_be_is_told(tmp_path, name):
    with pytest.raises(UserError, match="map"):
        draw(MAP, tmp_path / name)


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", types.ModuleType("matplotlib.figure"))
    with pytest.raises(UserError, match="pip install"):
        draw(MAP, tmp_path / "map.png")


def translator_of(tokenizer, **changes) -> Translator:
    config = Config(model=tiny_model(num_layers=2, **changes))
    config.decode.beam, config.decode.max_length_ratio, config.decode.max_length_extra = 1, 1.0, 3
    model = build_model(config.model, tokenizer.vocab_size)
    return Translator(model, random_parameters(model), tokenizer, config)


def test_a_translator_shows_the_attention_of_a_line_and_its_translation(tokenizer):
    translator = translator_of(tokenizer)
    (translation,) = translator.translate(["a b c"])
    found = translator.attention("a b c")
    assert (found.source, found.translation) == ("a b c", translation.text)
    model = translator.model, translator.params, tokenizer
    for words, maps in ((False, found.pieces), (True, found.words)):
        expected = attention_maps(*model, "a b c", translation.tokens, words=words)
        assert maps.keys() == expected.keys() == {"cross", "encoder", "decoder"}
        for kind in maps:
            np.testing.assert_array_equal(maps[kind].weights, expected[kind].weights)
    for same in (translation, translation.tokens):
        np.testing.assert_array_equal(translator.attention("a b c", same).words["cross"].weights, found.words["cross"].weights)
    assert translator.attention("a b", "c").words["cross"].queries == ("c", "(end)")
    assert "cross 2 x 2 x " in repr(found) and "array" not in repr(found)


def test_what_has_no_attention_to_show_is_named(tokenizer):
    translator = translator_of(tokenizer, positions="learned", max_positions=8)
    (translation,) = translator.translate(["a b c"])
    for source, target, message in (
        (" ", "c", "the line is blank"),
        ("a b", translation._replace(parts=2), "translated in 2 parts"),
        ("a b c d e f a b c d e f", "c", "too long for model.max_positions=8"),
    ):
        with pytest.raises(UserError, match=message):
            translator.attention(source, target)
    with pytest.raises(TypeError, match="source should be one line"):
        translator.attention(["a b"])
    lstm = build_model(tiny_model(**FAMILIES["LSTM"]), tokenizer.vocab_size)
    with pytest.raises(UserError, match="this model has no attention"):
        Translator(lstm, random_parameters(lstm), tokenizer, Config(model=lstm.config)).attention("a b", "c")
