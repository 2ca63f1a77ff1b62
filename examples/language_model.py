"""A decoder-only language model of the package's layers: it learns the built-in corpus letter by letter and generates.

    python examples/language_model.py

An encoder layer under a causal mask is a decoder-only layer; it generates with the key/value cache of a translation model.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import transformer_jax as tj
from transformer_jax.data import demo

PAD, END, START, LENGTH = 0, 1, 2, 64  # the special ids stand in front of the letters
IDS = tj.SpecialIds(START, END, PAD)
CONFIG = tj.ModelConfig(width=64, feed_forward_width=256, heads=4, dropout=0.0)
OPTIMIZER = optax.adam(3e-3)


class LanguageModel(nn.Module):
    vocab_size: int

    def setup(self):
        self.embedding, self.layers = tj.Embedding(self.vocab_size, CONFIG.width), [tj.EncoderLayer(CONFIG) for _ in range(2)]

    def __call__(self, ids):  # int32 [B, T] -> the logits of what follows each, [B, T, V]
        x = self.embedding(ids) + tj.sinusoids(jnp.arange(ids.shape[1])[None], CONFIG.width)
        mask = tj.causal_mask((ids != PAD).astype(jnp.int32))
        for layer in self.layers:
            x = layer(x, mask)
        return self.embedding.logits(x)

    def init_cache(self, rows, length):
        return [layer.init_cache(rows, length) for layer in self.layers]

    def step(self, token, index, cache):  # int32 [N] at place `index` -> the log-probabilities of what follows, [N, V], cache
        x, cache = self.embedding(token[:, None]) + tj.sinusoids(index[None, None], CONFIG.width), list(cache)
        for number, layer in enumerate(self.layers):
            x, cache[number] = layer.step(x, index, cache[number])
        return nn.log_softmax(self.embedding.logits(x)[:, 0]), cache


def main(steps: int = 600, rows: int = 64) -> list[str]:
    lines = [example.source for example in demo.generate("train", 4000) if len(example.source) < LENGTH]
    letters = sorted({*"".join(lines)})
    ids = np.full((len(lines), LENGTH + 1), PAD, np.int32)
    for row, line in zip(ids, lines, strict=True):
        row[: len(line) + 2] = [START, *(letters.index(letter) + 3 for letter in line), END]
    model = LanguageModel(len(letters) + 3)

    @jax.jit
    def train_step(params, moments, ids):
        def loss(params):
            losses = optax.softmax_cross_entropy_with_integer_labels(model.apply(params, ids[:, :-1]), ids[:, 1:])
            return losses.mean(where=ids[:, 1:] != PAD)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, moments = OPTIMIZER.update(gradients, moments)
        return optax.apply_updates(params, updates), moments, value

    params, draw = jax.jit(model.init)(jax.random.key(0), ids[:1, :-1]), np.random.default_rng(0)
    moments = OPTIMIZER.init(params)
    for number in range(1, steps + 1):
        params, moments, loss = train_step(params, moments, ids[draw.integers(len(ids), size=rows)])
        if number % 100 == 0:
            print(f"step {number}: {loss:.3f} nats a letter")
    four = tj.single_batch(model.apply(params, 4, LENGTH, method="init_cache"), jnp.full(4, LENGTH))
    step, options = functools.partial(model.apply, params, method="step"), tj.SearchOptions(temperature=0.7)
    drawn = tj.sample_search(step, four, IDS, options, key=jax.random.key(1), length=LENGTH)
    return ["".join(letters[i - 3] for i in row if i > 2) for row in np.asarray(drawn.tokens[:, 0])]


if __name__ == "__main__":
    print(*main(), sep="\n")
