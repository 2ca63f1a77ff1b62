"""The attentions of a CTranslate2 Transformer as parameters of ours."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.config import ModelConfig
from transformer_jax.interop.ctranslate2_variables import Variables

__all__ = ["Attention", "parameters_of", "read_attention", "set_widths", "wrong_heads"]

_ROTARY_BASE = 10_000


class Attention(NamedTuple):
    """One attention, float32, with heads as wide as in the file."""

    kernels: np.ndarray  # [D, 3, H, K]  of queries, keys, values
    biases: np.ndarray  # [3, H, K]
    output: np.ndarray  # [H, K, D]
    output_bias: np.ndarray  # [D]
    scale: float | None  # of queries; None: K^-0.5
    rotary: int  # dimensions of a head that are rotated; 0: none
    interleaved: bool  # whether two neighbours are rotated together, and not one of each half


def wrong_heads(variables: Variables, layers: Mapping[str, int], width: int) -> Iterator[str]:
    """What the attributes of attentions say that no model of ours has."""
    heads = variables.attribute("encoder", "num_heads", 8)
    if not 0 < heads <= width:
        yield f"encoder/num_heads: {heads} (expected 1 to {width})"
        return
    found = []
    for scope in _scopes(layers):
        is_self = scope.endswith("self_attention")
        only = {"num_heads_kv": heads, "multi_query": 0, "sliding_window": 0, "rotary_base": _ROTARY_BASE}
        for name, value in only.items():
            if (given := variables.attribute(scope, name, value)) != value:
                yield f"{scope}/{name}: {given} (expected {value})"
        head, rotary = variables.attribute(scope, "head_dim", 0), variables.attribute(scope, "rotary_dim", -1)
        if not (head or width) > 0 or (not head and width % heads):
            yield f"{scope}/head_dim: {head} (expected a width, or heads that divide {width})"
        if not is_self and rotary >= 0:
            yield f"{scope}/rotary_dim: {rotary} (expected none)"
        found.append((head or width // heads, rotary if is_self else None))
    if len({head for head, _ in found}) > 1 or len({rotary for _, rotary in found} - {None}) > 1:
        yield "head_dim or rotary_dim differ from layer to layer (expected the same)"


def _scopes(layers: Mapping[str, int]) -> Iterator[str]:
    for side, count in layers.items():
        for number in range(count):
            yield f"{side}/layer_{number}/self_attention"
            if side == "decoder":
                yield f"{side}/layer_{number}/attention"


def read_attention(variables: Variables, scope: str, width: int, heads: int) -> Attention:
    """The attention of a scope. Raises UserError as `Variables.weight` does."""
    head = variables.attribute(scope, "head_dim", 0) or width // heads
    inner = heads * head
    parts = (3,) if scope.endswith("self_attention") else (1, 2)
    kernels, biases = [], []
    for number, count in enumerate(parts):
        name = f"{scope}/linear_{number}"
        kernel = variables.weight(f"{name}/weight", (count * inner, width))
        kernels.append(kernel.T.reshape(width, count, heads, head))
        biases.append(_bias(variables, name, count * inner).reshape(count, heads, head))
    last = f"{scope}/linear_{len(parts)}"
    rotary = variables.attribute(scope, "rotary_dim", -1)
    return Attention(
        np.concatenate(kernels, axis=1),
        np.concatenate(biases),
        np.ascontiguousarray(variables.weight(f"{last}/weight", (width, inner)).T).reshape(heads, head, width),
        _bias(variables, last, width),
        variables.attribute(scope, "queries_scale", None),
        0 if rotary < 0 else rotary or head,
        bool(variables.attribute(scope, "rotary_interleave", 1)),
    )


def _bias(variables: Variables, name: str, size: int) -> np.ndarray:
    bias = f"{name}/bias"
    return variables.weight(bias, (size,)) if bias in variables else np.zeros(size, np.float32)


def set_widths(model: ModelConfig, attentions: Mapping[str, Attention]) -> list[str]:
    """Sets `key_width` and `value_width`; returns what no model of ours has."""
    first = next(iter(attentions.values()))
    head = first.kernels.shape[-1]
    key = _narrow_keys(list(attentions.values())) or head
    value = max(_used(attention) for attention in attentions.values())
    model.key_width = 0 if key * model.heads == model.width else key
    model.value_width = 0 if value == key else value
    wrong = [
        f"rotary_dim: {x.rotary} (expected {key}, the width of a head)"
        for x in attentions.values()
        if x.rotary - key and x.rotary
    ]
    odd = [f"rotary_dim: {key} (expected an even number)"] if first.rotary and key % 2 else []
    return wrong[:1] + odd


def _narrow_keys(attentions: list[Attention]) -> int:
    """The width of the heads of queries and keys that the scale of queries says, where the rest of all is zeros; else 0."""
    scales = {attention.scale for attention in attentions}
    scale = scales.pop() if len(scales) == 1 else None
    if not scale or not 0 < scale <= 1:
        return 0
    width = round(scale**-2)
    if np.float32(width**-0.5) != np.float32(scale):
        return 0
    is_filled = (attention.kernels[:, :2, :, width:].any() or attention.biases[:2, :, width:].any() for attention in attentions)
    return 0 if any(is_filled) else min(width, attentions[0].kernels.shape[-1])


def _used(attention: Attention) -> int:
    """The dimensions of values up to the last that is not zeros everywhere."""
    used = attention.kernels[:, 2].any(axis=(0, 1)) | attention.biases[2].any(axis=0) | attention.output.any(axis=(0, 2))
    return int(np.flatnonzero(used).max(initial=0)) + 1


def parameters_of(attention: Attention, name: str, model: ModelConfig) -> dict[str, np.ndarray]:
    """The parameters of the attention `name`."""
    key, value = model.key_head_width, model.value_head_width
    kernels, biases = attention.kernels, attention.biases
    order = np.arange(key)
    if attention.rotary and attention.interleaved:  # here a pair has a dimension of each half
        order = order.reshape(-1, 2).T.reshape(-1)
    scale = 1.0 if attention.scale is None else attention.scale * key**0.5
    factor = np.float32(1 if np.isclose(scale, 1, rtol=1e-6) else scale)
    parts = [
        (kernels[:, 0][..., order] * factor, biases[0][..., order] * factor),
        (kernels[:, 1][..., order], biases[1][..., order]),
        (kernels[:, 2, :, :value], biases[2, :, :value]),
    ]
    fused = key == value
    if "cross" in name:
        groups = {"query": [0]} | ({"key_value": [1, 2]} if fused else {"key": [1], "value": [2]})
    else:
        groups = {"query_key_value": [0, 1, 2]} if fused else {"query_key": [0, 1], "value": [2]}
    parameters: dict[str, Any] = {f"{name}/output/kernel": attention.output[:, :value]}
    for group, numbers in groups.items():
        several = len(numbers) > 1
        kernel = [parts[number][0] for number in numbers]
        parameters[f"{name}/{group}/kernel"] = np.stack(kernel, axis=1) if several else kernel[0]
        if model.attention_bias:
            bias = [parts[number][1] for number in numbers]
            parameters[f"{name}/{group}/bias"] = np.stack(bias) if several else bias[0]
    if model.attention_bias:
        parameters[f"{name}/output/bias"] = attention.output_bias
    return {each: np.ascontiguousarray(array) for each, array in parameters.items()}
