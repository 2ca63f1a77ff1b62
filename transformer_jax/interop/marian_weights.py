"""Where every weight of a Marian model, under Marian's names or Hugging Face's, stands among our parameters.

    ours                                              Hugging Face                                       Marian
    target_embedding/table                 [V, D]     model.shared.weight                      [V, D]    Wemb           [V, D]
    encoder_0/attention/query_key_value/kernel[:, 0]  model.encoder.layers.0.self_attn.q_proj.weight     encoder_l1_self_Wq
                                     [D, 3, H, K]                                       [HK, D]                     [D, HK]
    decoder_0/cross_attention/key_value/bias[1]       model.decoder.layers.0.encoder_attn.v_proj.bias    decoder_l1_context_bv
                                        [2, H, K]                                          [HK]                     [1, HK]

A matrix is the same numbers in all three: none is scaled or added to, so that what goes in and out again has the same bits.
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

HUGGING_FACE = "hugging_face"  # whose names weights have: those of MarianMTModel
MARIAN = "marian"  # ... and those of Marian's own files


class Place(NamedTuple):
    """One matrix, vector or table, by its names."""

    ours: str
    part: int | None  # which of the queries', keys' and values' it is, where they are one parameter
    hugging_face: str
    marian: str


def places(config: ModelConfig) -> Iterator[Place]:
    """All of a Transformer whose values are as wide as its keys, and whose feed-forward is not gated."""
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
    ours, theirs, marian = f"{stack}_{i}", f"model.{stack}.layers.{i}", f"{stack}_l{i + 1}"
    suffix = "_pre" if config.norm == "pre" else ""  # Marian's, of a norm that comes before its sublayer
    sublayers = [("attention", "self_attn", "self")]
    if stack == "decoder":
        sublayers.append(("cross_attention", "encoder_attn", "context"))
    for name, hugging_face, short in sublayers:
        yield from _attention(f"{ours}/{name}", f"{theirs}.{hugging_face}", f"{marian}_{short}", config.attention_bias)
        norm = f"{ours}/{name}_residual/norm", f"{theirs}.{hugging_face}_layer_norm", f"{marian}_{short}_Wo"
        yield from _norm(*norm, suffix)
    for number, name in enumerate(("inner", "outer"), 1):
        names = f"{ours}/feed_forward/{name}", f"{theirs}.fc{number}", f"{marian}_ffn"
        yield from _linear(*names, str(number), None, bias=True)
    yield from _norm(f"{ours}/feed_forward_residual/norm", f"{theirs}.final_layer_norm", f"{marian}_ffn_ffn", suffix)


def _attention(ours: str, theirs: str, marian: str, bias: bool) -> Iterator[Place]:
    together = ("query", None), ("key_value", 0), ("key_value", 1)
    if "cross" not in ours:
        together = tuple(("query_key_value", part) for part in range(3))
    for letter, (name, part) in zip("qkv", together, strict=True):
        yield from _linear(f"{ours}/{name}", f"{theirs}.{letter}_proj", marian, letter, part, bias)
    yield from _linear(f"{ours}/output", f"{theirs}.out_proj", marian, "o", None, bias)


def _linear(ours: str, theirs: str, marian: str, letter: str, part: int | None, bias: bool) -> Iterator[Place]:
    yield Place(f"{ours}/kernel", part, f"{theirs}.weight", f"{marian}_W{letter}")
    if bias:
        yield Place(f"{ours}/bias", part, f"{theirs}.bias", f"{marian}_b{letter}")


def _norm(ours: str, theirs: str, marian: str, suffix: str) -> Iterator[Place]:
    yield Place(f"{ours}/scale", None, f"{theirs}.weight", f"{marian}_ln_scale{suffix}")
    yield Place(f"{ours}/bias", None, f"{theirs}.bias", f"{marian}_ln_bias{suffix}")


def to_parameters(weights: Mapping[str, np.ndarray], config: ModelConfig, vocab_size: int, naming: str, where: str) -> Any:
    """Our parameters, float32, of `weights` under the names of `naming`, HUGGING_FACE or MARIAN.

    Raises UserError with `where`, naming every weight that is missing, is not the model's, is not of floating-point numbers, or
    has another shape than the model's.
    """
    if (layers := config.num_layers + config.decoder_layers) > len(weights):
        raise UserError(f"{where}: {len(weights)} weights are not those of {layers} layers; download the whole model again")
    expected = expected_parameters(config, vocab_size)
    known, wrong = set(), []
    for place in places(config):  # before anything of the config's sizes is made
        name = getattr(place, naming)
        known.add(name)
        shape = _shape_of(_shape_of_part(expected[place.ours].shape, place), place.ours, naming)
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
        room = _part(params[place.ours], place)
        room[...] = _turned(weights[getattr(place, naming)], place.ours, naming).reshape(room.shape)
    return unflatten_dict(params, sep="/")


def from_parameters(params: Any, config: ModelConfig, vocab_size: int, naming: str) -> dict[str, np.ndarray]:
    """The inverse of `to_parameters`: float32 arrays of their own. Raises UserError if `params` are not the model's."""
    flat = flat_parameters(params, config, vocab_size)
    weights, used = {}, set()
    for place in places(config):
        part = _part(np.asarray(flat[place.ours], np.float32), place)
        shape = _shape_of(part.shape, place.ours, naming)
        turned = shape[::-1] if _is_turned(place.ours, naming) else shape
        weights[getattr(place, naming)] = np.array(_turned(part.reshape(turned), place.ours, naming), order="C")
        used.add(place.ours)
    assert used == flat.keys(), f"parameters without a place: {flat.keys() - used}"
    return weights


def _shape_of_part(shape: tuple[int, ...], place: Place) -> tuple[int, ...]:
    """Of what `_part` gives, for a parameter of this shape."""
    if place.part is None:
        return tuple(shape)
    return (shape[0], *shape[2:]) if place.ours.endswith("kernel") else tuple(shape[1:])


def _part(parameter: np.ndarray, place: Place) -> np.ndarray:
    """A view of the part that a place stands for: of a kernel [D, n, H, K] or of a bias [n, H, K]."""
    if place.part is None:
        return parameter
    return parameter[:, place.part] if place.ours.endswith("kernel") else parameter[place.part]


def _shape_of(shape: tuple[int, ...], ours: str, naming: str) -> tuple[int, ...]:
    """The shape in which the other system has what is [D, H, K], [H, K, D], [V, D], [H, K], ... here."""
    if ours.endswith("table"):
        return shape
    if ours.endswith("kernel"):
        inner = np.prod(shape[:-1] if ours.endswith("output/kernel") else shape[:1], dtype=int).item()
        matrix = (inner, np.prod(shape, dtype=int).item() // inner)
        return matrix[::-1] if _is_turned(ours, naming) else matrix
    size = np.prod(shape, dtype=int).item()
    return (1, size) if naming == MARIAN or ours == "bias" else (size,)


def _is_turned(ours: str, naming: str) -> bool:
    """Torch multiplies by the transpose of its matrices; Marian's stand as ours do, inputs first."""
    return naming == HUGGING_FACE and ours.endswith("kernel")


def _turned(weight: np.ndarray, ours: str, naming: str) -> np.ndarray:
    return weight.T if _is_turned(ours, naming) else weight
