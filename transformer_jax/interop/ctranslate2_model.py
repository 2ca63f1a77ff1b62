"""A CTranslate2 Transformer as a model of ours: its options and its parameters, the inverse of `ctranslate2.weights_for`.

    decoder/embeddings/weight                       [V, D]    target_embedding/table                      [V, D]
    encoder/layer_0/self_attention/linear_0/weight  [3HK, D]  encoder_0/attention/query_key_value/kernel  [D, 3, H, K]
    decoder/layer_0/attention/linear_1/weight       [2HK, D]  decoder_0/cross_attention/key_value/kernel  [D, 2, H, K]
    decoder/layer_0/ffn/linear_0/weight             [F, D]    decoder_0/feed_forward/inner/kernel         [D, F]

CTranslate2 has one width K for the heads of queries, keys and values. Where the last dimensions of all heads are zeros, as the
export fills them up, the model's heads are narrower.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from transformer_jax.config import ModelConfig
from transformer_jax.interop.ctranslate2 import ACTIVATIONS
from transformer_jax.interop.ctranslate2_attention import parameters_of, read_attention, set_widths, wrong_heads
from transformer_jax.interop.ctranslate2_variables import Variables
from transformer_jax.interop.foreign_model import LARGEST_SIZE, kind_of_sinusoids, require_supported
from transformer_jax.models.layers import sinusoids

__all__ = ["TransformerOfFile", "read_transformer"]

# The members of their enumeration, in its order.
_ACTIVATIONS = ("RELU", "GELUTanh", "SWISH", "GELU", "GELUSigmoid", "Tanh", "Sigmoid")
_SIDES = ("encoder", "decoder")
# Attributes of which one value alone is what a model of ours computes; where they are left out, they have it.
_ONLY = {"multi_query_attention": 0, "sliding_window": 0, "alibi": 0, "final_logit_softcapping": 0, "scale_outputs": 1}
_OWN_FIRST_POSITION = 1  # of the sinusoids that CTranslate2 makes where the file has no table


class TransformerOfFile(NamedTuple):
    """What the variables describe."""

    model: ModelConfig
    parameters: dict[str, np.ndarray]  # float32, by their names in `flat_parameters`
    positions: int  # the most tokens for which the file's table has positions


def read_transformer(variables: Variables, epsilon: float, where: str) -> TransformerOfFile:
    """The model in a file's variables, whose layer norms add `epsilon` to the variance. Raises UserError for what is missing or
    of a wrong shape, and for what no model of ours has, naming all of it."""
    unknown = variables.unknown()
    more = [f"and {len(unknown) - 5} more"] if len(unknown) > 5 else []
    require_supported([f"{name} (expected no such variable)" for name in unknown[:5]] + more, where)
    layers = {side: variables.layers(side) for side in _SIDES}
    require_supported([f"{side}: no layers" for side in _SIDES if not layers[side]], where)
    tables = _tables(variables)
    width = tables["target_embedding/table"].shape[1]
    require_supported([*_wrong_attributes(variables, layers, width), *wrong_heads(variables, layers, width)], where)
    model, parameters = _options(variables, layers, epsilon, tables), tables
    model.positions, rest, positions = _positions(variables, model, _is_rotary(variables))
    parameters |= rest
    attentions = {}
    for side, count in layers.items():
        if model.norm == "pre":
            parameters |= _norm(variables, f"{side}/layer_norm", f"{side}_norm", width)
        for number in range(count):
            scope, own = f"{side}/layer_{number}", f"{side}_{number}"
            parts = {"attention": "self_attention"} | ({"cross_attention": "attention"} if side == "decoder" else {})
            for part, name in parts.items():
                attentions[f"{own}/{part}"] = read_attention(variables, f"{scope}/{name}", width, model.heads)
                parameters |= _norm(variables, f"{scope}/{name}/layer_norm", f"{own}/{part}_residual/norm", width)
            parameters |= _feed_forward(variables, f"{scope}/ffn", f"{own}/feed_forward", model)
            parameters |= _norm(variables, f"{scope}/ffn/layer_norm", f"{own}/feed_forward_residual/norm", width)
    require_supported([f"{name} (expected no such variable)" for name in variables.left_over()[:5]], where)
    require_supported(set_widths(model, attentions), where)
    for name, attention in attentions.items():
        parameters |= parameters_of(attention, name, model)
    return TransformerOfFile(model, parameters, positions)


def _wrong_attributes(variables: Variables, layers: dict[str, int], width: int) -> Iterator[str]:
    """What attributes say that no model of ours has."""
    for side in _SIDES:
        for name, only in _ONLY.items():
            value = variables.attribute(side, name, only)
            if name == "scale_outputs" and variables.is_flag(side, name):
                value = 1 if not value else f"{width}**-0.5"
            if value != only:
                yield f"{side}/{name}: {value} (expected {only})"
        if _scaling(variables, side, width) is None:
            yield f"{side}/scale_embeddings: {variables.attribute(side, 'scale_embeddings', 1)} (expected 1 or {width}**0.5)"
        for number in range(layers[side]):
            if (value := variables.attribute(f"{side}/layer_{number}", "layer_scalar", 1)) != 1:
                yield f"{side}/layer_{number}/layer_scalar: {value} (expected 1)"
        if f"{side}/layer_0/ffn/layer_norm/gamma" in variables and f"{side}/layer_0/ffn/layer_norm/beta" not in variables:
            yield f"{side}: norms without beta, RMSNorm (expected layer norms)"
        if variables.attribute(side, "pre_norm", 1) and f"{side}/layer_norm/gamma" not in variables:
            yield f"{side}: pre_norm without a norm after the last layer (expected one)"
    for name, default in (("num_heads", 8), ("pre_norm", 1), ("activation", 0)):
        found = [variables.attribute(side, name, default) for side in _SIDES]
        if found[0] != found[1]:
            yield f"encoder/{name}: {found[0]}, decoder/{name}: {found[1]} (expected the same)"
    if _scaling(variables, "encoder", width) != _scaling(variables, "decoder", width):
        yield "scale_embeddings of encoder and decoder differ (expected the same)"
    number = variables.attribute("encoder", "activation", 0)
    name = _ACTIVATIONS[number] if number in range(len(_ACTIVATIONS)) else str(number)
    gated = _is_gated(variables)
    possible = ["SWISH"] if gated else sorted({*ACTIVATIONS.values()})
    if name not in possible:
        yield f"encoder/activation: {name}{', gated' if gated else ''} (expected {' or '.join(possible)})"


def _options(variables: Variables, layers: dict[str, int], epsilon: float, tables: dict[str, np.ndarray]) -> ModelConfig:
    """The options except positions and the widths of heads."""
    names = {name: ours for ours, name in ACTIVATIONS.items() if ours != "swiglu"}
    rows, width = tables["target_embedding/table"].shape
    source_rows = len(tables.get("source_embedding/table", tables["target_embedding/table"]))
    tied = "none" if "output_embedding/table" in tables else "target" if "source_embedding/table" in tables else "all"
    return ModelConfig(
        num_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        width=width,
        feed_forward_width=len(variables.weight("encoder/layer_0/ffn/linear_0/weight")),
        heads=variables.attribute("encoder", "num_heads", 8),
        tied_embeddings=tied,
        source_vocab_size=source_rows if source_rows != rows else 0,
        output_bias="bias" in tables,
        scale_embedding=bool(_scaling(variables, "encoder", width)),
        attention_bias=any(
            f"{side}/layer_{layer}/{kind}/linear_{number}/bias" in variables
            for side, count in layers.items()
            for layer in range(count)
            for kind in ("self_attention", "attention")
            for number in range(3)
        ),
        norm="pre" if variables.attribute("encoder", "pre_norm", 1) else "post",
        norm_epsilon=epsilon,
        zero_start=bool(variables.attribute("decoder", "start_from_zero_embedding", 0)),
        activation="swiglu" if _is_gated(variables) else names[_ACTIVATIONS[variables.attribute("encoder", "activation", 0)]],
    )


def _tables(variables: Variables) -> dict[str, np.ndarray]:
    """The embedding tables that differ, and the bias of the output."""
    target = variables.weight("decoder/embeddings/weight")
    name = "encoder/embeddings_0/weight" if "encoder/embeddings_0/weight" in variables else "encoder/embeddings/weight"
    source = variables.weight(name)
    output = variables.weight("decoder/projection/weight", target.shape)
    if source.shape[1] != target.shape[1]:
        variables.weight(name, (len(source), target.shape[1]))  # raises
    tables = {"target_embedding/table": target}
    is_tied = np.array_equal(output, target)
    if not (is_tied and np.array_equal(source, target)):
        tables["source_embedding/table"] = source
    if not is_tied:
        tables["output_embedding/table"] = output
    if "decoder/projection/bias" in variables:
        tables["bias"] = variables.weight("decoder/projection/bias", (len(target),))
    return tables


def _scaling(variables: Variables, side: str, width: int) -> bool | None:
    """Are embeddings multiplied by sqrt(D)? None: by another number than that and 1."""
    name = "scale_embeddings" if f"{side}/scale_embeddings" in variables else "embeddings/multiply_by_sqrt_depth"
    value = variables.attribute(side, name, 1)
    if f"{side}/{name}" not in variables or variables.is_flag(side, name):
        return bool(value)
    is_root = math.isclose(value, math.sqrt(width), rel_tol=1e-3)
    return is_root if is_root or value == 1 else None


def _is_gated(variables: Variables) -> bool:
    return "encoder/layer_0/ffn/linear_0_noact/weight" in variables


def _is_rotary(variables: Variables) -> bool:
    return variables.attribute("encoder/layer_0/self_attention", "rotary_dim", -1) >= 0


def _positions(variables: Variables, model: ModelConfig, rotary: bool) -> tuple[str, dict[str, np.ndarray], int]:
    """`model.positions`, the parameters that they have, and for how many tokens there are positions. Sets the other options of
    positions. Tables that are no sinusoids, or not the same ones on both sides, become learned positions."""
    if rotary:
        return "rotary", {}, LARGEST_SIZE
    tables = {}
    for side in _SIDES:
        name = f"{side}/position_encodings/encodings"
        table = variables.weight(name) if name in variables else None
        if table is not None and table.shape[1] != model.width:
            variables.weight(name, (len(table), model.width))  # raises
        tables[side] = table
    own = "sinusoidal_marian", _OWN_FIRST_POSITION
    kinds = {own if table is None else kind_of_sinusoids(table, model.width) for table in tables.values()}
    rows = min(LARGEST_SIZE if table is None else len(table) for table in tables.values())
    if len(kinds) == 1 and None not in kinds:
        (kind,) = kinds
        model.first_position = kind[1]
        return kind[0], {}, rows
    for side, table in tables.items():
        if table is None:
            tables[side] = np.array(sinusoids(own[1] + jnp.arange(rows), model.width, own[0]))
    model.max_positions = rows
    return "learned", {"source_positions": tables["encoder"][:rows], "target_positions": tables["decoder"][:rows]}, rows


def _norm(variables: Variables, scope: str, name: str, width: int) -> dict[str, np.ndarray]:
    parts = {"scale": "gamma", "bias": "beta"}
    return {f"{name}/{own}": variables.weight(f"{scope}/{part}", (width,)) for own, part in parts.items()}


def _feed_forward(variables: Variables, scope: str, name: str, model: ModelConfig) -> dict[str, np.ndarray]:
    inner, outer = (model.feed_forward_width, model.width), (model.width, model.feed_forward_width)
    first, last = variables.weight(f"{scope}/linear_0/weight", inner), variables.weight(f"{scope}/linear_1/weight", outer)
    kernels = {f"{name}/outer/kernel": np.ascontiguousarray(last.T)}
    if model.activation == "swiglu":
        gate = variables.weight(f"{scope}/linear_0_noact/weight", inner)
        return kernels | {f"{name}/inner/kernel": np.concatenate([first.T, gate.T], axis=1)}
    kernels[f"{name}/inner/kernel"] = np.ascontiguousarray(first.T)
    for number, (part, size) in enumerate((("inner", inner[0]), ("outer", outer[0]))):
        bias = f"{scope}/linear_{number}/bias"
        kernels[f"{name}/{part}/bias"] = variables.weight(bias, (size,)) if bias in variables else np.zeros(size, np.float32)
    return kernels
