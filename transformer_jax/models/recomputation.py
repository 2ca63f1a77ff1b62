"""What the backward pass of a layer keeps in memory, and what it computes again.

Letters as in `models/seq2seq.py`.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

__all__ = ["recomputed"]

_KEPT = {"layers": None, "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


def recomputed(call: Callable[..., Any], remat: str, *, in_loop: bool = False) -> Callable[..., Any]:
    """`call(module, *arrays)`, whose value and gradient are the same, and whose backward pass computes again what it does not
    keep (Chen et al. 2016, arXiv 1604.06174). `remat` is as `TrainConfig.remat`:

    * `none`: `call` itself; everything that the backward pass uses is kept
    * `layers`: the arguments alone are kept
    * `products`: the arguments, and the results of products with parameters; those of queries and keys, of which there are T
      times S numbers for each head, are computed again

    Dropout has the same masks in both passes, and those that it has with `none`. `in_loop` says that a loop around `call` keeps
    the two passes apart, so that XLA cannot merge them; elsewhere a barrier does.
    """
    return call if remat == "none" else nn.remat(call, policy=_KEPT[remat], prevent_cse=not in_loop)
