"""It learns: what no equivalence shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    EOS,
    FAMILIES,
    PAD,
    START,
    VOCAB,
    each_family,
    letters,
    rows_of,
    sentences,
    tiny_config,
    tiny_model,
    write_tsv,
)

from transformer_jax.config import Config, SearchOptions
from transformer_jax.decoding import greedy_search, single_batch
from transformer_jax.inference.translator import Translator
from transformer_jax.models.seq2seq import build_model, init_parameters
from transformer_jax.tokenization.special_ids import SpecialIds
from transformer_jax.training.loop import train
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.step import TrainState, make_train_step


def copies(seed: int, rows: int = 32):
    """Sentences of up to 6 tokens and themselves."""
    store = sentences(np.random.default_rng(seed).integers(2, 7, rows), [1] * rows, seed)
    store = type(store)(store.source_ids, store.source_offsets, store.source_ids, store.source_offsets)
    return rows_of(store, range(rows), rows, 6, 6)


@pytest.mark.parametrize(
    "model",
    each_family(
        dict(width=32, feed_forward_width=64, heads=4, norm="pre"),
        dict(width=32, feed_forward_width=64, heads=4, norm="pre", autoregression="ssru"),
        FAMILIES["LSTM"] | dict(width=96),  # one vector for six tokens: it needs more room
        FAMILIES["LSTM with attention"] | dict(width=48, num_layers=1),
        FAMILIES["LSTM with input feeding"] | dict(width=48),
    ),
)
def test_it_learns_to_copy(model):
    config = Config()
    config.model = tiny_model(**model)
    config.optimizer.schedule, config.optimizer.learning_rate, config.optimizer.warmup_steps = "cosine", 0.01, 20
    config.optimizer.clip_norm, config.train.steps = 1.0, 400
    model, optimizer = build_model(config.model, VOCAB), make_optimizer(config)
    step = jax.jit(make_train_step(model, optimizer, config.train))
    state = TrainState.create(init_parameters(model, jax.random.key(0)), optimizer)
    for seed in range(config.train.steps):
        state, sums = step(state, copies(seed), jax.random.key(0))
    assert sums.loss.correct > 0.98 * sums.loss.tokens

    @jax.jit
    def translate(batch):
        def call(method, *args):
            return model.apply({"params": state.params}, *args, method=method)

        memory = call("encode", batch.source, batch.source_segment, batch.source_position)
        cache = model.apply({"params": state.params}, memory, 1, 8, method="init_cache")

        def advance(token, index, cache):
            logits, cache = call("decode_step", token, index, memory, cache)
            return jax.nn.log_softmax(logits), cache

        queue, ids = single_batch(cache, jnp.full(32, 8)), SpecialIds(START, EOS, PAD)
        return greedy_search(advance, queue, ids, SearchOptions(), length=8).tokens[:, 0, :6]

    unseen = copies(10_000)
    right = (translate(unseen) == unseen.target_output).all(axis=1)
    assert right.mean() > 0.9


TASKS = {"reverse": lambda line: line[::-1], "sort": lambda line: " ".join(sorted(line.split()))}


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", [lambda line: line[::-1], lambda line: " ".join(sorted(line.split()))], ids=["reverse", "sort"]
)
def test_from_text_to_text_it_learns_to(task, tmp_path):
    """The whole way: text, tokenizer, batches, training, checkpoint, beam search; more lines than can be known by heart."""
    config = tiny_config(tmp_path)
    lines = letters(6000, 10)
    unseen = sorted(set(letters(400, 10, seed=2)) - set(lines))[:200]
    config.data.train = write_tsv(tmp_path / "train.tsv", lines, [task(line) for line in lines])
    config.data.dev = write_tsv(tmp_path / "dev.tsv", lines[:20], [task(line) for line in lines[:20]])
    config.tokenizer.vocab_size, config.tokenizer.byte_fallback = 20, False
    config.batch.tokens, config.batch.max_length = 1024, 32
    config.model = tiny_model(num_layers=2, width=64, feed_forward_width=128, heads=4, norm="pre", dropout=0.05)
    config.optimizer.schedule, config.optimizer.learning_rate, config.optimizer.warmup_steps = "cosine", 0.004, 100
    config.optimizer.clip_norm = 1.0
    config.train.steps = config.train.evaluate_every = config.train.checkpoint_every = 1200
    config.train.log_every = 200
    train(config, tmp_path / "run")
    found = [translation.text for translation in Translator.load(tmp_path / "run").translate(unseen)]
    assert len(found) == 200
    assert np.mean([text == task(line) for text, line in zip(found, unseen, strict=True)]) > 0.9
