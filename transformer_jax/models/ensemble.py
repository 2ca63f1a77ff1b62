"""Several models as one, which averages their probabilities."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

__all__ = ["Ensemble"]


class Ensemble:
    """P(y_i | y_1 .. y_{i-1}, x) = 1/n sum_k P_k(y_i | y_1 .. y_{i-1}, x), under the contract of `models/seq2seq.py`.

    The models may be of any families and sizes, but of one vocabulary. Parameters, memory and cache are tuples with one entry
    for each model. Logits are the logarithms of the mean probabilities. Only the first model sows intermediates.
    """

    def __init__(self, models: Sequence[nn.Module]):
        self.models = tuple(models)

    def apply(
        self, variables: Any, *args: Any, method: str | None = None, mutable: Any = False, train: bool | None = None
    ) -> Any:
        """As `apply` of a linen module: `variables` are {"params": a tuple of the models' parameters}, `args` and the result
        are those of the contract's four functions (`method`; None: teacher forcing)."""

        def call(number: int, *args: Any) -> tuple[Any, Any]:
            collections = mutable if number == 0 else False
            own = {"params": variables["params"][number]}
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
            results = _mean(results)
        if method == "decode_step":
            results = _mean([logits for logits, _ in results]), tuple(cache for _, cache in results)
        return (results, sown) if mutable else results


def _mean(logits: Sequence[jax.Array]) -> jax.Array:
    log_probs = jnp.stack([jax.nn.log_softmax(of_one_model.astype(jnp.float32)) for of_one_model in logits])
    return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(logits))
