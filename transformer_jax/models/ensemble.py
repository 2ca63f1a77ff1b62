"""Several models as one, which averages their probabilities."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.errors import UserError

__all__ = ["Ensemble"]


class Ensemble:
    """P(y_i | y_1 .. y_{i-1}, x) = sum_k w_k P_k(y_i | y_1 .. y_{i-1}, x), under the contract of `models/seq2seq.py`.

    The weights add up to 1: w_k = 1/n, or the share that `weights` give each of the n models. Raises UserError for weights that
    are not as many, or not all more than 0.

    The models may be of any families and sizes, but of one vocabulary. Parameters, memory and cache are tuples with one entry
    for each model. Logits are the logarithms of the mean probabilities. Only the first model sows intermediates.
    """

    def __init__(self, models: Sequence[nn.Module], weights: Sequence[float] | None = None):
        self.models = tuple(models)
        given = [1.0] * len(self.models) if weights is None else list(weights)
        if len(given) != len(self.models):
            raise UserError(f"{len(given)} weights for {len(self.models)} models; expected one for each, the first one's first")
        for weight in given:
            if not (weight > 0 and math.isfinite(weight)):
                raise UserError(f"the weight {weight:g} of a model should be more than 0; leave a model without weight out")
        self._are_equal = len(set(given)) <= 1
        self.weights = tuple(weight / sum(given) for weight in given)

    def apply(
        self, variables: Any, *args: Any, method: str | None = None, mutable: Any = False, train: bool | None = None
    ) -> Any:
        """As `apply` of a linen module: each of the `variables`, such as "params", is a tuple with one entry for
        each model, `args` and the result are those of the contract's four functions (`method`; None: teacher forcing)."""

        def call(number: int, *args: Any) -> tuple[Any, Any]:
            collections = mutable if number == 0 else False
            own = {name: of_models[number] for name, of_models in variables.items()}
            options = {} if train is None else {"train": train}
            out = self.models[number].apply(own, *args, method=method, mutable=collections, **options)
            return out if collections else (out, None)

        numbers = range(len(self.models))
        if method == "init_cache":
            memory, *rest = args
            outs = [call(k, memory[k], *rest) for k in numbers]
        elif method == "decode_step":
            token, index, memory, cache, *rest = args
            outs = [call(k, token, index, memory[k], cache[k], *rest) for k in numbers]
        else:
            outs = [call(k, *args) for k in numbers]
        results, sown = tuple(out for out, _ in outs), outs[0][1]
        if method is None:
            results = self._mean(results)
        if method == "decode_step":
            results = self._mean([logits for logits, _ in results]), tuple(cache for _, cache in results)
        return (results, sown) if mutable else results

    def _mean(self, logits: Sequence[jax.Array]) -> jax.Array:
        log_probs = jnp.stack([jax.nn.log_softmax(of_one_model.astype(jnp.float32)) for of_one_model in logits])
        if self._are_equal:
            return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(logits))
        log_weights = jnp.log(jnp.array(self.weights, jnp.float32)).reshape(-1, *[1] * (log_probs.ndim - 1))
        return jax.nn.logsumexp(log_probs + log_weights, axis=0)
