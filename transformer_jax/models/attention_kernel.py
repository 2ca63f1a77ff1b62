"""Attention by a kernel, which keeps no weights of T times S numbers: for long rows (`ModelConfig.attention_kernel`).

Letters as in `models/seq2seq.py`.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.platform import kind_of_device

__all__ = ["Segments", "require_kernel", "splash_attention"]

_LANES = 128  # the kernel takes lengths that are a multiple
_BLOCKS = 512, 384, 256, 128  # of queries, and of keys, that it works on at a time: the first that divides the length


@struct.dataclass
class Segments:
    """Where attention is allowed, in place of a mask: where segments match, with `causal` to no later key."""

    query: Array  # int32 [B, T]
    key: Array  # int32 [B, S]
    causal: bool = struct.field(pytree_node=False, default=False)


def require_kernel(config: ModelConfig) -> None:
    """Raises UserError where the devices of this process do not have `config.attention_kernel`."""
    kernel, kind = config.attention_kernel, kind_of_device()
    if kernel == "splash" and kind != "tpu":
        raise UserError(f"config: model.attention_kernel='splash' should be plain here: it is for TPUs, and this is a {kind}")


def splash_attention(query: Array, key: Array, value: Array, segments: Segments) -> Array:
    """softmax(q k^T / sqrt(K)) v over the allowed keys, by JAX's splash attention (after Dao et al. 2022, arXiv 2205.14135):
    query [B, T, H, K], key [B, H, K, S], value [B, H, S, K], K that of the values -> [B, T, H, K], of the query's type.

    It is what `attention_weights` and `attend` give, up to rounding, but for a query without any allowed key, whose output is
    finite and otherwise undefined. Both lengths are padded to a multiple of 128. On CPU the kernel is interpreted, which takes
    very long.
    """
    # Pallas is imported where it is used: it takes a second.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    length, heads = query.shape[1:3]
    query = _padded(query.swapaxes(1, 2) * (query.shape[-1] ** -0.5), axis=2)
    key, value = _padded(key.swapaxes(2, 3), axis=2), _padded(value, axis=2)
    ids = splash_attention_kernel.SegmentIds(_padded(segments.query, axis=1), _padded(segments.key, axis=1))
    size = query.shape[2], key.shape[2]
    mask = splash_attention_mask.CausalMask(size) if segments.causal else splash_attention_mask.FullMask(size)
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([mask] * heads),
        block_sizes=_block_sizes(splash_attention_kernel.BlockSizes, *size),
        head_shards=1,
        q_seq_shards=1,
        interpret=kind_of_device() == "cpu",
    )
    return jax.vmap(kernel)(query, key, value, ids)[:, :, :length].swapaxes(1, 2)


def _block_sizes(cls: type, queries: int, keys: int) -> object:
    of_queries, of_keys = (next(block for block in _BLOCKS if length % block == 0) for length in (queries, keys))
    forward, backward = dict(block_q=of_queries, block_kv=of_keys), dict(block_q_dq=of_queries, block_kv_dq=of_keys)
    return cls(**forward, **backward, block_q_dkv=of_queries, block_kv_dkv=of_keys)


def _padded(x: Array, axis: int) -> Array:
    """Zeros up to a length that is a multiple of 128. As a segment, 0 is padding."""
    widths = [(0, -x.shape[axis] % _LANES if each == axis else 0) for each in range(x.ndim)]
    return jnp.pad(x, widths)
