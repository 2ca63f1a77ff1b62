"""The variables of a CTranslate2 Transformer: attributes, and weights of any type as float32."""

import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.interop.ctranslate2_file import shown

__all__ = ["Variables"]

_LEGACY_INT16_SCALE = 1000  # of int16 weights whose file has no scale: `Quantize::global_int16_scale` there
_LINEAR = "(weight|weight_scale|bias)"
_NORM = "layer_norm/(gamma|beta)"
_ATTENTION = "queries_scale|head_dim|num_heads_kv|multi_query|sliding_window|rotary_dim|rotary_interleave|rotary_base"
_ATTRIBUTES = (
    "num_heads|pre_norm|activation|embeddings_merge|scale_embeddings|multi_query_attention|sliding_window|alignment_layer"
    "|alignment_heads|alibi|alibi_use_positive_positions|scale_alibi|scale_outputs|start_from_zero_embedding"
    "|final_logit_softcapping"
)
_KNOWN = re.compile(
    rf"""(encoder|decoder)/(
        {_ATTRIBUTES} | {_NORM} | projection/{_LINEAR} | position_encodings/encodings
        | embeddings(_0)?/(weight|weight_scale|multiply_by_sqrt_depth)
        | layer_\d+/(layer_scalar | ffn/({_NORM} | linear_(0|0_noact|1)/{_LINEAR})
                     | (self_)?attention/({_ATTENTION} | {_NORM} | linear_[012]/{_LINEAR}))
    ) | num_heads | pre_norm | activation | embeddings_merge | alignment_layer | alignment_heads
      | (unk|bos|eos)_token | with_source_[be]os | with_target_bos | user_decoder_start_tokens""",
    re.VERBOSE,
)


class Variables:
    """The variables of a model, each read by its name; which were read is kept, so that none is left over unnoticed."""

    def __init__(self, variables: dict[str, np.ndarray], where: str):
        self._variables, self._where, self._read = variables, where, set[str]()

    def __contains__(self, name: str) -> bool:
        return name in self._variables

    def unknown(self) -> list[str]:
        """The names that no Transformer of ours has a use for, with `*` for the number of a layer."""
        names = (name for name in self._variables if not _KNOWN.fullmatch(name))
        return sorted({shown(re.sub(r"layer_\d+", "layer_*", name)) for name in names})

    def layers(self, side: str) -> int:
        """The number of layers of encoder or decoder."""
        numbers = {int(match[1]) for name in self._variables if (match := re.match(rf"{side}/layer_(\d{{1,6}})/", name))}
        return next(number for number in range(len(numbers) + 1) if number not in numbers)

    def attribute(self, scope: str, name: str, default: Any) -> Any:
        """The number of an attribute of `scope`, or of the whole model, where older versions have some. Raises UserError if it
        is no single number."""
        for full in (f"{scope}/{name}", name):
            if full in self._variables:
                self._read.add(full)
                value = self._variables[full]
                if value.size != 1 or not np.isfinite(number := value.astype(np.float64).item()):
                    raise UserError(f"{self._where}: {full} should be a number; download or convert the model again")
                return int(number) if value.dtype.kind == "i" else number
        return default

    def is_flag(self, scope: str, name: str) -> bool:
        """Is the attribute there, and stored as true or false are?"""
        return (value := self._variables.get(f"{scope}/{name}")) is not None and value.dtype == np.int8

    def text(self, name: str, default: str) -> str:
        """The text of an attribute, in older versions. Raises UserError if it is none."""
        if name not in self._variables:
            return default
        self._read.add(name)
        try:
            return self._variables[name].tobytes().decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{self._where}: {name} should be a text; download or convert the model again") from None

    def weight(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """A weight as float32, a copy. Integers are divided by their scale, one for each row or one for all: CTranslate2
        multiplies them by 1 / scale in float32, and so does this.

        Raises UserError where it is missing, has another `shape` (None: any matrix), or holds what is no finite number.
        """
        if name not in self._variables:
            raise UserError(f"{self._where}: {shown(name)} is missing; download or convert the model again")
        self._read |= {name, f"{name}_scale"}
        stored = self._variables[name]
        if stored.shape != shape if shape else (stored.ndim != 2 or not stored.size):
            expected = shape or "a matrix"
            raise UserError(
                f"{self._where}: {shown(name)} has shape {stored.shape} instead of {expected}; convert the model again"
            )
        weight = stored.astype(np.float32)
        if not jnp.issubdtype(stored.dtype, jnp.floating):
            with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
                weight = weight * self._inverse_scale(name, stored)
        if not np.isfinite(weight).all():
            raise UserError(f"{self._where}: {shown(name)} holds what is no finite number; convert the model again")
        return weight

    def left_over(self) -> list[str]:
        """The names of the weights that were not read."""
        ends = "/weight", "/bias", "/gamma", "/beta", "/encodings"
        return sorted(shown(name) for name in self._variables if name.endswith(ends) and name not in self._read)

    def _inverse_scale(self, name: str, stored: np.ndarray) -> np.ndarray:
        scale = self._variables.get(f"{name}_scale")
        if scale is None and stored.dtype == np.int16:
            return np.float32(1) / np.float32(_LEGACY_INT16_SCALE)
        if scale is None or scale.size not in (1, len(stored)) or not jnp.issubdtype(scale.dtype, jnp.floating):
            raise UserError(
                f"{self._where}: {shown(name)} is of {stored.dtype.name} and needs a {shown(name)}_scale, a number for each "
                f"of its {len(stored)} rows or one for all; download or convert the model again"
            )
        return np.float32(1) / scale.astype(np.float32).reshape(-1, *[1] * (stored.ndim - 1))
