"""Several models as one, which says what they say in the mean."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

__all__ = ["Ensemble"]


class Ensemble:
    """P(y_i | y_1 .. y_{i-1}, x) = 1/n sum_k P_k(y_i | y_1 .. y_{i-1}, x), under the contract of `models/seq2seq.py`.

    The models may be of any families and sizes, but of one vocabulary. Parameters are a tuple of theirs, and so are memory and
    cache. Logits are the logarithms of the means. What is sown is the first model's.
    """

    def __init__(self, models: Sequence[nn.Module]):
        self.models = tuple(models)

    def apply(
        self, variables: Any, *args: Any, method: str | None = None, mutable: Any = False, train: bool | None = None
    ) -> Any:
        """As a linen module's: `variables` are {"params": a tuple of the models' parameters}, `args` and the result those of
        the contract's four functions (`method`; None: teacher forcing)."""

        def call(number: int, *args: Any) -> tuple[Any, Any]:
            sown = mutable if number == 0 else False
            known = {"params": variables["params"][number]}
            more = {} if train is None else {"train": train}
            out = self.models[number].apply(known, *args, method=method, mutable=sown, **more)
            return out if sown else (out, None)

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
    each = jnp.stack([jax.nn.log_softmax(of_one.astype(jnp.float32)) for of_one in logits])
    return jax.nn.logsumexp(each, axis=0) - jnp.log(len(logits))
