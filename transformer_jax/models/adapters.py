"""Low-rank adapters of the products of a model: LoRA (Hu et al. 2021, arXiv 2106.09685).

Letters as in `models/seq2seq.py`; r is the rank.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.tree_util import DictKey

from transformer_jax.config import TrainConfig
from transformer_jax.errors import UserError
from transformer_jax.models.matrices import as_before, matrix_shape
from transformer_jax.models.parameter_patterns import matching_paths

__all__ = ["Adapters"]

_PATTERNS = {"attention": "*attention/*", "feed_forward": "*feed_forward/*", "all": "*"}


class Adapters(NamedTuple):
    """The adapters of a training: of each product with a matrix W that `on` names, W + (alpha / r) down up takes W's place,
    where `down` is [inputs, r] and `up` is [r, outputs] (Hu et al. 2021, equation 3, whose A is `down` and B is `up`,
    transposed). A fused kernel has adapters for each of its projections. The tree of the factors has, at the path of each W,
    {"down": ..., "up": ...}.

    A model never sees them: its parameters are what `merge` returns.
    """

    rank: int
    alpha: float
    on: str  # as `train.lora_on`

    @classmethod
    def of(cls, config: TrainConfig) -> "Adapters | None":
        """Those that a config asks for; None for none."""
        return cls(config.lora_rank, config.lora_alpha or float(config.lora_rank), config.lora_on) if config.lora_rank else None

    def shapes(self, params: Any) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """The shapes of `down` [..., inputs, r] and `up` [..., r, outputs], by the paths of the matrices in `params`, a tree of
        arrays or of their shapes. Raises UserError where `on` names no matrix, and for a rank above a matrix's smaller side."""
        matrices = {}
        for path, leaf in flatten_dict(params, sep="/").items():
            if shape := matrix_shape(tuple(map(DictKey, path.split("/"))), leaf.shape):
                matrices[path] = shape
        patterns = ", ".join(_PATTERNS.get(word.strip(), word) for word in self.on.split(","))
        found = {}
        for path in sorted(matching_paths("train.lora_on", patterns, matrices)):
            *several, inputs, outputs = matrices[path]
            if self.rank > min(inputs, outputs):
                most = min(inputs, outputs)
                raise UserError(f"config: train.lora_rank={self.rank} should be at most {most}, the smaller side of {path}")
            found[path] = (*several, inputs, self.rank), (*several, self.rank, outputs)
        return found

    def init(self, params: Any, key: Array) -> Any:
        """Fresh float32 factors: `down` from a normal distribution with variance 1 / inputs, `up` zero, so that what is merged
        is W itself. Raises UserError as `shapes` does."""
        factors = {}
        for number, (path, (down, up)) in enumerate(self.shapes(params).items()):
            factors[f"{path}/down"] = jax.random.normal(jax.random.fold_in(key, number), down) * down[-2] ** -0.5
            factors[f"{path}/up"] = jnp.zeros(up)
        return unflatten_dict(factors, sep="/")

    def abstract(self, params: Any) -> Any:
        """The shapes and types of `init`'s factors, without the numbers."""
        return jax.eval_shape(lambda: self.init(params, jax.random.key(0)))

    def merge(self, params: Any, factors: Any) -> Any:
        """The parameters of the model: `params` with W + (alpha / r) down up in place of each W that has factors. Products are
        computed in full float32.

        >>> ones = {"kernel": jnp.ones((2, 2))}
        >>> factors = {"kernel": {"down": jnp.array([[1.0], [2.0]]), "up": jnp.array([[0.0, 3.0]])}}
        >>> Adapters(rank=1, alpha=2.0, on="all").merge(ones, factors)["kernel"].tolist()
        [[1.0, 7.0], [1.0, 13.0]]
        """
        flat, of_factors = flatten_dict(params, sep="/"), flatten_dict(factors, sep="/")
        for path in (name.removesuffix("/down") for name in of_factors if name.endswith("/down")):
            low_rank = jnp.matmul(of_factors[f"{path}/down"], of_factors[f"{path}/up"], precision=jax.lax.Precision.HIGHEST)
            flat[path] = flat[path] + (self.alpha / self.rank) * as_before(low_rank, flat[path])
        return unflatten_dict(flat, sep="/")
