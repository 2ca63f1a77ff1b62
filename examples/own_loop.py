"""The stream of batches in a training loop of one's own: a model of three matrices, plain JAX and optax.

    python examples/own_loop.py

Two columns of text become shuffled batches of few shapes, each with the position from which another stream continues.
"""

import itertools
import tempfile

import jax
import jax.numpy as jnp
import optax

from transformer_jax import (
    BatchConfig,
    BatchStream,
    StreamPosition,
    Tokenizer,
    TokenizerConfig,
    loss_sums,
    open_store,
    prefetch,
    read_pairs,
)

WIDTH = 64
OPTIMIZER = optax.adam(1e-2)


def open_stream(text: str, folder: str) -> tuple[BatchStream, Tokenizer]:
    pairs = read_pairs(text, "en", "de")
    tokenizer = Tokenizer.train(itertools.chain(*pairs), TokenizerConfig(vocab_size=1000), f"{folder}/tokenizer")
    store = open_store(pairs, tokenizer, cache_dir=folder)
    return BatchStream(store, BatchConfig(tokens=1024, shapes=3, row_multiple=8), tokenizer, seed=0), tokenizer


def init(key: jax.Array, vocab_size: int) -> dict[str, jax.Array]:
    shapes = {"source": (vocab_size, WIDTH), "target": (vocab_size, WIDTH), "output": (WIDTH, vocab_size)}
    keys = jax.random.split(key, len(shapes))
    return {name: jax.random.normal(k, shape) * WIDTH**-0.5 for k, (name, shape) in zip(keys, shapes.items(), strict=True)}


def mean_loss(params, batch):
    """Predicts a word from the one before it and the mean of the source: no order, no attention."""
    real = batch.source_segment[..., None] > 0  # of an epoch's last batch, some rows may have no word at all
    source = params["source"][batch.source].sum(1, where=real, keepdims=True) / real.sum(1, keepdims=True).clip(1)  # [B, 1, D]
    hidden = jnp.tanh(params["target"][batch.target_input] + source)  # [B, T, D]
    sums = loss_sums(hidden @ params["output"], batch.target_output, batch.target_segment, label_smoothing=0.0)
    return sums.loss.sum() / sums.tokens.sum()


@jax.jit
def train_step(params, moments, batch):
    loss, gradients = jax.value_and_grad(mean_loss)(params, batch)
    updates, moments = OPTIMIZER.update(gradients, moments)
    return optax.apply_updates(params, updates), moments, loss


def main(steps: int = 300, text: str = "demo:train") -> list[float]:
    """`text` may also be PREFIX, of PREFIX.en and PREFIX.de, or FILE.tsv."""
    losses, position = [], StreamPosition()
    with tempfile.TemporaryDirectory() as folder:
        stream, tokenizer = open_stream(text, folder)
        print(f"{stream.pairs} pairs in batches of {stream.shapes}")
        params = init(jax.random.key(0), tokenizer.vocab_size)
        moments = OPTIMIZER.init(params)
        for _ in range(2):  # the second half begins where the first ended, as after a restart
            with prefetch(stream.batches(position)) as batches:
                for batch, after in itertools.islice(batches, steps // 2):
                    params, moments, loss = train_step(params, moments, batch)
                    losses.append(float(loss))
                    position = after
            print(f"{len(losses)} batches, epoch {position.epoch}, {position.offset} pairs of it: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
