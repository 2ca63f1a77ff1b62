"""Your own text: layers, width, vocabulary, dropout and steps are chosen by the number of pairs and the kind of device.

    transformer-jax train --config=own_text --workdir=runs/mine --config.data.train=data/train --config.data.dev=data/dev
    transformer-jax evaluate --workdir=runs/mine --test data/test

where `data/train` stands for `data/train.en` and `data/train.de`. The pairs are counted before the training begins, the log
says what was chosen, and the run folder keeps it: a run that goes on is not sized anew. Every key can still be overridden. In
Python the number of pairs is an argument: `transformer_jax.recipe("own_text", 29_000)`.

    pairs, from   layers x width   vocabulary   dropout   steps x positions   where the figures are from
    0             2 x 128          1,000        0.3       2,000 x 1,024       the model of `demo`, the rest interpolated
    3,000         2 x 128          2,000        0.3       2,000 x 2,048       the model of `demo`, the rest interpolated
    20,000        3 x 128          8,000        0.1       1,800 x 2,048       `multi30k`, measured (29,000 pairs)
    100,000       3 x 192          8,000        0.1       4,000 x 4,096       between `multi30k` and `mixed`, interpolated
    300,000       3 x 192          8,000        0.0       4,500 x 2,048       `mixed`, measured (345,708 pairs)

and where there is a GPU or TPU, whose time is not what limits,

    100,000       6 x 256          16,000       0.2       20,000 x 8,192      interpolated
    1,000,000     6 x 512          32,000       0.1       100,000 x 25,600    `transformer_base`, the paper's, not trained here

With 20,000 to 100,000 pairs positions are rotary, as in `multi30k`; else they are sinusoidal. What is measured, time and score,
the recipe of that name says of its own text, and of its own batches: here they are bucketed, for sentences of any length. What
is interpolated was not trained. There are at most so many steps that a text of 20 tokens a pair is read 60 times. Text of few
different words, such as a program makes, has no 8,000 different pieces: the tokenizer then has as many as there are, and the
log says how many (the config's key `tokenizer.vocab_may_shrink`). Lines in capitals are translated as if they were in small
letters; for text that is all in capitals, --config.decode.capitals=keep. A word that the text does not have is read as one that
it has, if that is a typing error away; for text full of other terms, --config.decode.spelling=keep.
"""

import logging
from typing import NamedTuple

from transformer_jax.config import Config
from transformer_jax.errors import UserError

log = logging.getLogger("transformer_jax.recipes.own_text")


class Size(NamedTuple):
    """What is chosen for a text of `pairs` or more."""

    pairs: int
    layers: int
    width: int
    feed_forward_width: int
    heads: int
    vocabulary: int
    dropout: float
    tokens: int  # positions of a batch
    steps: int
    learning_rate: float  # 0: the paper's schedule, else a cosine
    warmup_steps: int
    source: str
    positions: str = "sinusoidal"


SMALL = (
    Size(0, 2, 128, 512, 4, 1000, 0.3, 1024, 2000, 0.004, 150, "the model of the recipe demo, the rest interpolated"),
    Size(3_000, 2, 128, 512, 4, 2000, 0.3, 2048, 2000, 0.004, 150, "the model of the recipe demo, the rest interpolated"),
    Size(
        20_000, 3, 128, 512, 4, 8000, 0.1, 2048, 1800, 0.006, 400, "the recipe multi30k, measured on 29,000 captions", "rotary"
    ),
)
ON_CPU = (
    *SMALL,
    Size(100_000, 3, 192, 768, 4, 8000, 0.1, 4096, 4000, 0.0025, 400, "between the recipes multi30k and mixed, interpolated"),
    Size(300_000, 3, 192, 768, 4, 8000, 0.0, 2048, 4500, 0.002, 400, "the recipe mixed, measured on 345,708 pairs"),
)
ON_ACCELERATOR = (
    *SMALL,
    Size(100_000, 6, 256, 1024, 4, 16_000, 0.2, 8192, 20_000, 0.001, 1000, "interpolated, not trained"),
    Size(1_000_000, 6, 512, 2048, 8, 32_000, 0.1, 25_600, 100_000, 0.0, 4000, "the recipe transformer_base, not trained here"),
)

_TOKENS_OF_A_PAIR = 20  # of its longer side, roughly; only for the number of steps
_MOST_EPOCHS = 60
_FEW_PAIRS = 20_000  # below it, compiling many shapes would take longer than their padding costs


def get_config(pairs: int, device: str = "cpu") -> Config:
    """The config for a text of `pairs` pairs on a `device` of this kind (cpu, gpu or tpu). Raises UserError for fewer than one
    pair. `data.train` and `data.dev` are empty: they are to be set."""
    if pairs < 1:
        raise UserError(f"own_text: {pairs} pairs; expected text of one pair or more")
    size = [size for size in (ON_CPU if device == "cpu" else ON_ACCELERATOR) if size.pairs <= pairs][-1]
    positions = pairs * _TOKENS_OF_A_PAIR
    steps = min(size.steps, max(200, round(_MOST_EPOCHS * positions / size.tokens / 100) * 100))
    config = Config()
    config.data.train = config.data.dev = ""
    config.tokenizer.vocab_size = size.vocabulary
    config.tokenizer.vocab_may_shrink = True
    config.tokenizer.sample_lines = 500_000
    config.batch.tokens = size.tokens
    config.model.num_layers, config.model.width, config.model.heads = size.layers, size.width, size.heads
    config.model.feed_forward_width, config.model.dropout = size.feed_forward_width, size.dropout
    config.model.positions = size.positions
    config.optimizer.warmup_steps = min(size.warmup_steps, steps // 4)
    if size.learning_rate:
        config.model.norm = "pre"
        config.batch.shapes = 8 if pairs >= _FEW_PAIRS else 2
        config.batch.row_multiple, config.batch.max_length = 8, 128
        config.optimizer.schedule, config.optimizer.learning_rate = "cosine", size.learning_rate
        config.optimizer.clip_norm = 1.0
    config.train.steps = steps
    config.decode.capitals = "restore"
    config.decode.spelling = "correct"
    config.train.log_every = 50 if steps < 5000 else 100
    config.train.evaluate_every = config.train.checkpoint_every = max(50, steps // (20 if steps > 20_000 else 4))
    config.train.keep_checkpoints = 5
    _report(config, size, pairs, device)
    return config


def _report(config: Config, size: Size, pairs: int, device: str) -> None:
    model, train = config.model, config.train
    log.info("own_text: %s pairs on %s: %s", f"{pairs:,}", "CPU" if device == "cpu" else device.upper(), size.source)
    log.info(
        "own_text: %d layers of width %d, up to %s pieces, dropout %g: more text fills a larger model, less needs more dropout",
        model.num_layers,
        model.width,
        f"{config.tokenizer.vocab_size:,}",
        model.dropout,
    )
    log.info(
        "own_text: %s steps of %s positions; the dev set is scored every %s steps",
        f"{train.steps:,}",
        f"{config.batch.tokens:,}",
        f"{train.evaluate_every:,}",
    )
    if device == "cpu" and pairs >= 1_000_000:
        log.info("own_text: on a CPU a small part of so much text is read; with a GPU or TPU the model would be larger")
