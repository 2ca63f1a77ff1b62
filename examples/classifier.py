"""An encoder with one output: what does "it" mean, the subject of the sentence or the object?

    python examples/classifier.py

"The elephant did not cross the street because it was too tired." and "... too wide." differ in one word and in the answer.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from transformer_jax import Embedding, EncoderLayer, ModelConfig, segment_mask, sinusoids
from transformer_jax.data import demo

CONFIG = ModelConfig(num_layers=2, width=64, feed_forward_width=128, heads=4, dropout=0.1)
LENGTH = 24  # words


class Classifier(nn.Module):
    vocab_size: int

    @nn.compact
    def __call__(self, ids, *, train):
        """Ids of words, int32 [B, S], 0 where padded -> the logit of "the subject", [B]."""
        x = Embedding(self.vocab_size, CONFIG.width)(ids) + sinusoids(jnp.arange(ids.shape[1])[None], CONFIG.width)
        real = (ids > 0).astype(jnp.int32)
        for _ in range(CONFIG.num_layers):
            x = EncoderLayer(CONFIG)(x, segment_mask(real, real), train=train)
        return nn.Dense(1)(x.mean(axis=1, where=real[..., None] > 0))[:, 0]


def read(split: str, size: int, known: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Words by number, and whether "it" is the subject; words that are not `known` get the next number in training, else 1."""
    examples = [each for each in demo.generate(split, size) if each.pronoun and len(each.source.split()) <= LENGTH]
    ids = np.zeros((len(examples), LENGTH), np.int32)
    for row, example in zip(ids, examples, strict=True):
        words = example.source.lower().replace(",", " ,").rstrip(".").split()
        for place, word in enumerate(words[:LENGTH]):
            row[place] = known.setdefault(word, len(known) + 2) if split == "train" else known.get(word, 1)
    return ids, np.array([each.pronoun.referent < each.pronoun.distractor for each in examples], np.float32)


def main(steps: int = 400, size: int = 12_000) -> float:
    known: dict[str, int] = {}
    ids, labels = read("train", size, known)
    model, optimizer, key = Classifier(len(known) + 2), optax.adam(1e-3), jax.random.key(0)
    params = jax.jit(partial(model.init, train=False))(key, ids[:1])

    @jax.jit
    def train_step(params, moments, key, ids, labels):
        def loss(params):
            logits = model.apply(params, ids, train=True, rngs={"dropout": key})
            return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(params, updates), moments, value

    moments, draw = optimizer.init(params), np.random.default_rng(0)
    for number in range(1, steps + 1):
        rows = draw.integers(len(ids), size=64)
        params, moments, loss = train_step(params, moments, jax.random.fold_in(key, number), ids[rows], labels[rows])
        if number % 100 == 0:
            print(f"step {number}: loss {loss:.3f}")
    unseen, answers = read("test", 1000, known)
    right = float(np.mean((jax.jit(partial(model.apply, train=False))(params, unseen) > 0) == (answers > 0)))
    print(f"right in {right:.1%} of {len(unseen)} sentences never seen (guessing: 50%)")
    return right


if __name__ == "__main__":
    main()
