"""Attention from the model to a picture."""

import sys
import types

import jax
import numpy as np
import pytest
from flax import linen as nn
from helpers import letters, random_parameters, tiny_model

from transformer_jax.attention_map import AttentionMap, cross_attention, draw
from transformer_jax.config import TokenizerConfig
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.errors import UserError
from transformer_jax.models.seq2seq import build_model

MAP = AttentionMap(("\u2581a", "</s>"), ("\u2581b", "c", "</s>"), np.full((3, 2), 0.5, np.float32))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tokenizer):
    return build_model(tiny_model(num_layers=2), tokenizer.vocab_size)


def test_weights_are_shares_of_the_source_for_each_target_piece(model, tokenizer):
    found = cross_attention(model, random_parameters(model), tokenizer, "a b c d", "c a b")
    assert found.source == tuple(tokenizer.pieces(tokenizer.encode_source(["a b c d"])[0]))
    assert found.target == tuple(tokenizer.pieces(tokenizer.encode_target(["c a b"])[0]))
    assert found.weights.shape == (len(found.target), len(found.source))
    assert (found.weights >= 0).all() and found.weights.std() > 0
    np.testing.assert_allclose(found.weights.sum(axis=1), np.ones(len(found.target)), atol=1e-5)


def test_a_row_does_not_depend_on_what_comes_after_it(model, tokenizer):
    """Teacher forcing of the whole is what decoding saw."""
    params = random_parameters(model)
    short, long = (cross_attention(model, params, tokenizer, "a b", text).weights for text in ("c", "c a b h"))
    np.testing.assert_allclose(long[: len(short)], short, atol=1e-5)


def test_queries_without_weights_look_everywhere_alike(model, tokenizer):
    def zero(path, leaf):
        keys = jax.tree_util.keystr(path)
        return np.zeros_like(leaf) if "cross_attention" in keys and "query" in keys else leaf

    params = jax.tree_util.tree_map_with_path(zero, random_parameters(model))
    found = cross_attention(model, params, tokenizer, "a b c", "d")
    np.testing.assert_allclose(found.weights, np.full_like(found.weights, 1 / len(found.source)), atol=1e-6)


def test_a_model_without_attention_to_the_source_is_told(tokenizer):
    class Blind(nn.Module):
        @nn.compact
        def __call__(self, batch, *, train):
            self.sow("intermediates", "attention_weights", batch.source)
            return batch.source

    with pytest.raises(UserError, match="no attention to the source"):
        cross_attention(Blind(), {}, tokenizer, "a", "b")


@pytest.mark.parametrize("ending, start", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_picture_has_the_format_of_its_ending(tmp_path, ending, start):
    draw(MAP, tmp_path / f"map.{ending}")
    assert (tmp_path / f"map.{ending}").read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["no/such/folder/map.png", "map.doc"])
def test_a_file_that_cannot_be_is_told(tmp_path, name):
    with pytest.raises(UserError, match="map"):
        draw(MAP, tmp_path / name)


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", types.ModuleType("matplotlib.figure"))
    with pytest.raises(UserError, match="pip install"):
        draw(MAP, tmp_path / "map.png")
