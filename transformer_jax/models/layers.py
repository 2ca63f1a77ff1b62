"""The layers other than attention: projections, embeddings, positions, feed-forward, normalisation, dropout."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from transformer_jax.config import ModelConfig
from transformer_jax.models.matmul import activation_dtype, product, product_precision

__all__ = [
    "CANDIDATES",
    "CUT",
    "Dropout",
    "Embedding",
    "EmbeddingTables",
    "FeedForward",
    "LayerNorm",
    "Projection",
    "Rotation",
    "require_width",
    "rotate",
    "sinusoids",
]

_ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "gelu_exact": functools.partial(nn.gelu, approximate=False),
    "gelu_sigmoid": lambda x: x * nn.sigmoid(1.702 * x),
    "silu": nn.silu,
}
CUT = "cut"  # the collection of variables in which `EmbeddingTables` finds what to cut
CANDIDATES = "candidates"  # that in which it finds the `output_rows` of each row's candidates


def require_width(x: Array, width: int, name: str) -> None:
    """Raises ValueError unless the last axis of `x`, the input of the module `name`, is `width`.

    >>> require_width(jnp.zeros((1, 5, 16)), 32, "EncoderLayer")
    Traceback (most recent call last):
    ValueError: EncoderLayer: expected an input of width 32, found width 16 (shape (1, 5, 16))
    """
    if x.shape[-1] != width:
        raise ValueError(f"{name}: expected an input of width {width}, found width {x.shape[-1]} (shape {x.shape})")


class Projection(nn.Module):
    """x W (+ b) over the last `axes` axes of x, [..., D] -> [..., *features], with Glorot's uniform initialisation. Parameters
    are float32, the operands of the product (`matmul.product`) are of `dtype`."""

    features: tuple[int, ...]
    dtype: jnp.dtype
    axes: int = 1
    bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x of any shape, of which the last `axes` axes are projected -> [..., *features], in the `activation_dtype`. Raises
        ValueError where there are parameters, for axes of other sizes."""
        projected, rows = x.shape[-self.axes :], x.shape[: -self.axes]
        self._check_parameters(projected)
        flat = math.prod(projected), math.prod(self.features)

        def initialise(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
            return nn.initializers.xavier_uniform()(key, flat, dtype).reshape(shape)

        kernel = self.param("kernel", initialise, (*projected, *self.features))
        out = product(x.reshape(*rows, flat[0]), kernel.reshape(flat), self.dtype)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, self.features).astype(out.dtype)
            out += bias.reshape((1,) * len(rows) + (-1,))
        return out.reshape(*rows, *self.features)

    def _check_parameters(self, projected: tuple[int, ...]) -> None:
        if self.has_variable("params", "kernel"):
            expected = self.get_variable("params", "kernel").shape[: self.axes]
            if expected != projected:
                name = "/".join(self.scope.path)
                sizes = (" x ".join(map(str, sizes)) for sizes in (expected, projected))
                raise ValueError("the parameters of {} are for inputs of width {}, and the input has {}".format(name, *sizes))


def LayerNorm(dtype: jnp.dtype, epsilon: float) -> nn.LayerNorm:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over D (Ba et al. 2016); the statistics are always float32."""
    return nn.LayerNorm(epsilon=epsilon, dtype=activation_dtype(dtype))


class Dropout(nn.Module):
    """Zeroes each element with probability `rate` and scales the others by 1 / (1 - rate) (Srivastava et al. 2014).

    Needs the random stream `dropout`. The probability is exact to 2^-32.
    """

    rate: float

    def __call__(self, x: Array, *, train: bool) -> Array:
        """x of any shape -> the same shape and type; `x` itself without `train`."""
        if not train or self.rate == 0:
            return x
        keep = _random_bits(self.make_rng("dropout"), x.shape) >= np.uint32(min(round(self.rate * 2**32), 2**32 - 1))
        return jnp.where(keep, x * (1 / (1 - self.rate)), 0).astype(x.dtype)


def _random_bits(key: Array, shape: tuple[int, ...]) -> Array:
    """uint32 [*shape]: element i has mix(mix(i ^ a) ^ b), where (a, b) are drawn with `key`.

    A keyed permutation of the indices (Even and Mansour 1997, in two rounds), whose `mix` is the finalizer of MurmurHash3. XLA
    fuses it into the operation that uses the bits; those of `jax.random` are written to and read from memory twenty times on
    CPU. Dropout needs well-mixed bits, not cryptographic ones.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    # One iota for each axis instead of a reshaped one: each device of a mesh then computes the indices of its own rows.
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    offsets = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(by % 2**32) for axis, by in enumerate(strides))
    return _mix(_mix(sum(offsets, jnp.uint32(0)) ^ first) ^ second)


def _mix(x: Array) -> Array:
    """A permutation of the 32-bit numbers in which each bit of the result depends on every bit of x."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def sinusoids(position: Array, width: int, kind: str = "sinusoidal") -> Array:
    """Sine and cosine of position / 10000^(2i/D), for i = 0 .. D/2 - 1 (Vaswani et al. 2017, section 3.5). position [...] ->
    float32 [..., D], for D = `width`; raises ValueError for an odd one.

    * `sinusoidal` has sine and cosine of one i beside each other, as the paper writes it;
    * `sinusoidal_concatenated` has all sines first, as Hugging Face's Marian;
    * `sinusoidal_marian` has all sines first too, with the angles position / 10000^(i / (D/2 - 1)): the slowest advances by
      exactly 1/10000 from one position to the next, as in tensor2tensor and in Marian itself.

    >>> [float(x) for x in sinusoids(jnp.array(0), 4)]
    [0.0, 1.0, 0.0, 1.0]
    >>> [float(x) for x in sinusoids(jnp.array(0), 4, "sinusoidal_concatenated")]
    [0.0, 0.0, 1.0, 1.0]
    >>> [round(float(x), 4) for x in sinusoids(jnp.array(1), 4, "sinusoidal_marian")]
    [0.8415, 0.0001, 0.5403, 1.0]
    """
    if width % 2:
        raise ValueError(f"sinusoids have an even width, half of it sines and half cosines; {width} is odd")
    angle = _angles(position, width, width - 2 if kind == "sinusoidal_marian" else width)
    axis = -1
    if kind == "sinusoidal":
        return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis).reshape(*position.shape, width)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis)


class Rotation(NamedTuple):
    """Sines and cosines of the angles by which `rotate` rotates, float32 [B, T, K/2] each, in place of the positions."""

    sine: Array
    cosine: Array

    @classmethod
    def of(cls, position: Array, width: int) -> "Rotation":
        """The angles position / 10000^(2i/K) of int32 [B, T], for K = `width`."""
        angle = _angles(position, width, width)
        return cls(jnp.sin(angle), jnp.cos(angle))

    @classmethod
    def looked_up(cls, position: Array, width: int, count: int) -> "Rotation":
        """`of` positions below `count`, from a table. XLA on CPU computes a sine anew for every number that it rotates, which
        takes as long as attention itself in a step of a search."""
        angle = np.arange(count, dtype=np.float32)[:, None] * _frequencies(width, width)[None, :]
        return cls(*(jnp.asarray(table)[position] for table in (np.sin(angle), np.cos(angle))))


def rotate(x: Array, position: Array | Rotation) -> Array:
    """Rotates each pair (x_i, x_{i+K/2}) by the angle position / 10000^(2i/K) (Su et al. 2021, eq. 15, on halves).

    The product of a rotated query and key depends only on the distance of their positions. x [B, T, H, K], position int32
    [B, T] or a `Rotation` -> [B, T, H, K].
    """
    rotation = position if isinstance(position, Rotation) else Rotation.of(position, x.shape[-1])
    sine, cosine = (of_pair[:, :, None] for of_pair in rotation)  # [B, T, 1, K/2]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)


def _frequencies(width: int, period: int) -> np.ndarray:
    return 10000.0 ** (-np.arange(0, width, 2, dtype=np.float32) / period)


def _angles(position: Array, width: int, period: int) -> Array:
    frequency = _frequencies(width, period)
    # Explicit reshapes, so that no rank is promoted: [...] x [D/2] -> [..., D/2].
    return position[..., None].astype(jnp.float32) * frequency.reshape((1,) * position.ndim + (-1,))


class Embedding(nn.Module):
    """A table [V, D], initialised with standard deviation D^-0.5. Its rows are the input embeddings (times sqrt(D) where they
    are `scaled`, for unit variance), or the table is the output projection."""

    vocab_size: int
    width: int
    dtype: jnp.dtype = jnp.float32
    scaled: bool = True

    def setup(self):
        self.table = self.param("table", nn.initializers.normal(self.width**-0.5), (self.vocab_size, self.width))

    def __call__(self, ids: Array) -> Array:
        """int32 [B, T] -> [B, T, D]"""
        rows = jnp.take(self.table, ids, axis=0).astype(activation_dtype(self.dtype))
        return rows * self.width**0.5 if self.scaled else rows

    def logits(self, x: Array) -> Array:
        """x E^T in float32: [B, T, D] -> [B, T, V]"""
        require_width(x, self.width, "Embedding")
        return product(x, self.table, self.dtype, transposed=True, result=jnp.float32)


class EmbeddingTables(nn.Module):
    """The first and the last layer of every model, ids to embeddings and output to logits, with tables tied as
    `config.tied_embeddings` says.

    `model.apply({"params": params, CUT: {"source": [B, S], "target": [B, T]}}, batch, ...)` makes those embeddings zero where
    the bools are true, before positions are added (token cutoff, Shen et al. 2020). Without the collection nothing is cut.

    With `CANDIDATES: model.apply({"params": params}, candidates, method="output_rows")` beside the parameters, `decode_step`
    gives the logits of each row's candidates, [N, C], and of no other pieces.
    """

    config: ModelConfig
    vocab_size: int
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"  # as `TrainConfig.remat`; only where it is called with `train`

    def setup(self):
        def table(rows: int = self.vocab_size) -> Embedding:
            return Embedding(rows, self.config.width, self.dtype, self.config.scale_embedding)

        self.target_embedding = table()
        if self.config.tied_embeddings != "all":
            self.source_embedding = table(self.config.source_vocab_size or self.vocab_size)
        if self.config.tied_embeddings == "none":
            self.output_embedding = table()
        if self.config.output_bias:
            self.bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))

    def embed_source(self, ids: Array) -> Array:
        """int32 [B, S] -> [B, S, D]"""
        table = self.target_embedding if self.config.tied_embeddings == "all" else self.source_embedding
        return self._cut("source", table(ids))

    def embed_target(self, ids: Array) -> Array:
        """int32 [B, T] -> [B, T, D]"""
        return self._cut("target", self.target_embedding(ids))

    def _cut(self, side: str, rows: Array) -> Array:
        if not self.has_variable(CUT, side):
            return rows
        return jnp.where(self.get_variable(CUT, side)[..., None], 0, rows)

    def output_rows(self, candidates: Array) -> dict[str, Array]:
        """What `logits` needs of the pieces `candidates` int32 [B, C]: their rows of the output table, [B, D, C], and their
        bias, float32 [B, C]. ~i stands for a piece i with the bias minus infinity."""
        ids = jnp.where(candidates < 0, ~candidates, candidates)
        rows = jnp.take(self._output_table.table, ids, axis=0).astype(activation_dtype(self.dtype)).swapaxes(1, 2)
        bias = jnp.take(self.bias, ids) if self.config.output_bias else jnp.zeros(ids.shape, jnp.float32)
        return {"rows": rows, "bias": jnp.where(candidates < 0, -jnp.inf, bias)}

    @property
    def _output_table(self) -> Embedding:
        return self.output_embedding if self.config.tied_embeddings == "none" else self.target_embedding

    def logits(self, x: Array) -> Array:
        """[B, T, D] -> float32 [B, T, V]; with candidates, [N, 1, D] -> [N, 1, C]."""
        if self.has_variable(CANDIDATES, "rows"):
            rows, bias = (self.get_variable(CANDIDATES, name) for name in ("rows", "bias"))
            x = x.reshape(len(rows), -1, x.shape[-1])  # [B, beams, D]
            logits = jnp.matmul(x, rows, precision=product_precision(x.dtype), preferred_element_type=jnp.float32)
            return (logits + bias[:, None]).reshape(-1, 1, bias.shape[1])
        logits = self._output_table.logits(x)
        return logits + self.bias[None, None] if self.config.output_bias else logits


class FeedForward(nn.Module):
    """activation(x W_1 + b_1) W_2 + b_2 (Vaswani et al. 2017, eq. 2), or SwiGLU (Shazeer 2020): (silu(x W) * x V) W_2.
    The activations: `ModelConfig.activation`."""

    width: int
    hidden_width: int
    activation: str
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        gated = self.activation == "swiglu"
        self.inner = Projection((self.hidden_width * (2 if gated else 1),), self.dtype, bias=not gated)
        self.outer = Projection((self.width,), self.dtype, bias=not gated)
        self.drop = Dropout(self.dropout)

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """[B, T, D] -> [B, T, D]. Raises ValueError for another width."""
        require_width(x, self.width, "FeedForward")
        hidden = self.inner(x)  # [B, T, F], SwiGLU: [B, T, 2F]
        if self.activation == "swiglu":
            gate, value = jnp.split(hidden, 2, axis=-1)
            hidden = nn.silu(gate) * value
        else:
            hidden = _ACTIVATIONS[self.activation](hidden)
        return self.outer(self.drop(hidden, train=train))
