"""The parameter that each weight of a Marian model belongs to, by its name in Marian and in Hugging Face.

    parameter                                         Hugging Face                                       Marian
    target_embedding/table                 [V, D]     model.shared.weight                      [V, D]    Wemb           [V, D]
    encoder_0/attention/query_key_value/kernel[:, 0]  model.encoder.layers.0.self_attn.q_proj.weight     encoder_l1_self_Wq
                                     [D, 3, H, K]                                       [HK, D]                     [D, HK]
    decoder_0/cross_attention/key_value/bias[1]       model.decoder.layers.0.encoder_attn.v_proj.bias    decoder_l1_context_bv
                                        [2, H, K]                                          [HK]                     [1, HK]

All three have the same numbers, none scaled or shifted, so that an imported and exported model has the same bits. Only in
Marian's own files the tables and the output bias lack the last entry, zeros for the decoder's start, and an untied output table
may be `decoder_ff_logit_out_W`, transposed: `marian_npz._with_start` adds the entry and transposes. Hugging Face's copies of
tied tables are left out by `hugging_face_reader`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.interop.parameters import expected_parameters, flat_parameters

__all__ = ["HUGGING_FACE", "MARIAN", "Place", "from_parameters", "places", "to_parameters"]

HUGGING_FACE = "hugging_face"  # the naming of weights by MarianMTModel
MARIAN = "marian"  # the naming of weights by Marian's own files


class Place(NamedTuple):
    """One matrix, vector or table, by its three names."""

    parameter: str
    part: int | None  # the index of queries, keys or values, if they are one parameter
    hugging_face: str
    marian: str


def places(config: ModelConfig) -> Iterator[Place]:
    """The places of a Transformer whose values are as wide as its keys, and whose feed-forward layers are not gated. Those of
    an SSRU have no name in Hugging Face."""
    tied = config.tied_embeddings
    if tied == "all":
        yield Place("target_embedding/table", None, "model.shared.weight", "Wemb")
    else:
        yield Place("source_embedding/table", None, "model.encoder.embed_tokens.weight", "encoder_Wemb")
        yield Place("target_embedding/table", None, "model.decoder.embed_tokens.weight", "decoder_Wemb")
    if tied == "none":
        yield Place("output_embedding/table", None, "lm_head.weight", "decoder_ff_logit_out_Wt")
    if config.output_bias:
        yield Place("bias", None, "final_logits_bias", "decoder_ff_logit_out_b")
    for stack, layers in (("encoder", config.num_layers), ("decoder", config.decoder_depth)):
        if config.norm == "pre":
            yield from _norm(f"{stack}_norm", f"model.{stack}.layer_norm", f"{stack}_top", "")
        for i in range(layers):
            yield from _layer(stack, i, config)


def _layer(stack: str, i: int, config: ModelConfig) -> Iterator[Place]:
    parameter, hugging_face, marian = f"{stack}_{i}", f"model.{stack}.layers.{i}", f"{stack}_l{i + 1}"
    suffix = "_pre" if config.norm == "pre" else ""  # in Marian's names, of a norm that comes before its sublayer
    sublayers = [("attention", "self_attn", "self")]
    if stack == "decoder" and config.autoregression == "ssru":  # which Hugging Face does not have
        yield from (
            Place(f"{parameter}/recurrence/input/kernel", n, "", f"{marian}_rnn_{w}") for n, w in enumerate(("W", "Wf"))
        )
        yield Place(f"{parameter}/recurrence/forget_bias", None, "", f"{marian}_rnn_bf")
        yield from _norm(f"{parameter}/recurrence_residual/norm", "", f"{marian}_rnn" + ("" if suffix else "_ffn"), suffix)
        sublayers = []
    if stack == "decoder":
        sublayers.append(("cross_attention", "encoder_attn", "context"))
    for name, long, short in sublayers:
        prefixes = f"{parameter}/{name}", f"{hugging_face}.{long}", f"{marian}_{short}"
        yield from _attention(*prefixes, config.attention_bias)
        yield from _norm(f"{prefixes[0]}_residual/norm", f"{prefixes[1]}_layer_norm", f"{prefixes[2]}_Wo", suffix)
    for number, name in enumerate(("inner", "outer"), 1):
        names = f"{parameter}/feed_forward/{name}", f"{hugging_face}.fc{number}", f"{marian}_ffn"
        yield from _linear(*names, str(number), None, bias=True)
    yield from _norm(f"{parameter}/feed_forward_residual/norm", f"{hugging_face}.final_layer_norm", f"{marian}_ffn_ffn", suffix)


def _attention(parameter: str, hugging_face: str, marian: str, bias: bool) -> Iterator[Place]:
    projections = ("query", None), ("key_value", 0), ("key_value", 1)
    if "cross" not in parameter:
        projections = tuple(("query_key_value", part) for part in range(3))
    for letter, (name, part) in zip("qkv", projections, strict=True):
        yield from _linear(f"{parameter}/{name}", f"{hugging_face}.{letter}_proj", marian, letter, part, bias)
    yield from _linear(f"{parameter}/output", f"{hugging_face}.out_proj", marian, "o", None, bias)


def _linear(parameter: str, hugging_face: str, marian: str, letter: str, part: int | None, bias: bool) -> Iterator[Place]:
    yield Place(f"{parameter}/kernel", part, f"{hugging_face}.weight", f"{marian}_W{letter}")
    if bias:
        yield Place(f"{parameter}/bias", part, f"{hugging_face}.bias", f"{marian}_b{letter}")


def _norm(parameter: str, hugging_face: str, marian: str, suffix: str) -> Iterator[Place]:
    yield Place(f"{parameter}/scale", None, f"{hugging_face}.weight", f"{marian}_ln_scale{suffix}")
    yield Place(f"{parameter}/bias", None, f"{hugging_face}.bias", f"{marian}_ln_bias{suffix}")


def to_parameters(weights: Mapping[str, np.ndarray], config: ModelConfig, vocab_size: int, naming: str, where: str) -> Any:
    """The parameters, float32, made of `weights` whose names are those of `naming`, HUGGING_FACE or MARIAN.

    Raises UserError with `where`, naming every weight that is missing or unknown, does not hold floating-point numbers, or has
    another shape than the model's.
    """
    if (layers := config.num_layers + config.decoder_layers) > len(weights):
        raise UserError(f"{where}: {len(weights)} weights are not those of {layers} layers; download the whole model again")
    expected = expected_parameters(config, vocab_size)
    known, wrong = set(), []
    for place in places(config):  # before arrays of the config's sizes are made
        name = getattr(place, naming)
        known.add(name)
        shape = _shape_of(_shape_of_part(expected[place.parameter].shape, place), place.parameter, naming)
        if name not in weights:
            wrong.append(f"{name} is missing")
        elif weights[name].shape != shape:
            wrong.append(f"{name} has shape {weights[name].shape} instead of {shape}")
        elif not jnp.issubdtype(weights[name].dtype, jnp.floating):
            wrong.append(f"{name} is of {weights[name].dtype} instead of floating-point numbers")
    wrong += [f"{name} is not known" for name in weights if name not in known]
    if wrong:
        raise UserError(f"{where}: not the weights of the model that its config describes: {'; '.join(wrong)}")
    params = {name: np.empty(leaf.shape, np.float32) for name, leaf in expected.items()}
    for place in places(config):
        target = _part(params[place.parameter], place)
        target[...] = _transposed(weights[getattr(place, naming)], place.parameter, naming).reshape(target.shape)
    return unflatten_dict(params, sep="/")


def from_parameters(params: Any, config: ModelConfig, vocab_size: int, naming: str) -> dict[str, np.ndarray]:
    """The inverse of `to_parameters`: new float32 arrays. Raises UserError if `params` are not the model's."""
    flat = flat_parameters(params, config, vocab_size)
    weights, used = {}, set()
    for place in places(config):
        part = _part(np.asarray(flat[place.parameter], np.float32), place)
        shape = _shape_of(part.shape, place.parameter, naming)
        matrix = shape[::-1] if _is_transposed(place.parameter, naming) else shape
        weights[getattr(place, naming)] = np.array(_transposed(part.reshape(matrix), place.parameter, naming), order="C")
        used.add(place.parameter)
    assert used == flat.keys(), f"parameters without a place: {flat.keys() - used}"
    return weights


def _shape_of_part(shape: tuple[int, ...], place: Place) -> tuple[int, ...]:
    """The shape of `_part` of a parameter of this shape."""
    if place.part is None:
        return tuple(shape)
    return (shape[0], *shape[2:]) if place.parameter.endswith("kernel") else tuple(shape[1:])


def _part(parameter: np.ndarray, place: Place) -> np.ndarray:
    """A view of the place's part of a parameter: of a kernel [D, n, H, K] or of a bias [n, H, K]."""
    if place.part is None:
        return parameter
    return parameter[:, place.part] if place.parameter.endswith("kernel") else parameter[place.part]


def _shape_of(shape: tuple[int, ...], parameter: str, naming: str) -> tuple[int, ...]:
    """The shape, in the other system, of a parameter of shape [D, H, K], [H, K, D], [V, D], [H, K], ..."""
    if parameter.endswith("table"):
        return shape
    if parameter.endswith("kernel"):
        inner = np.prod(shape[:-1] if parameter.endswith("output/kernel") else shape[:1], dtype=int).item()
        matrix = (inner, np.prod(shape, dtype=int).item() // inner)
        return matrix[::-1] if _is_transposed(parameter, naming) else matrix
    size = np.prod(shape, dtype=int).item()
    return (1, size) if naming == MARIAN or parameter == "bias" else (size,)


def _is_transposed(parameter: str, naming: str) -> bool:
    """Is the matrix transposed? Torch's have outputs first, those of Marian and of transformer_jax inputs."""
    return naming == HUGGING_FACE and parameter.endswith("kernel")


def _transposed(weight: np.ndarray, parameter: str, naming: str) -> np.ndarray:
    return weight.T if _is_transposed(parameter, naming) else weight
