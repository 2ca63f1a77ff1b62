"""A mix of 345,708 English-German pairs (talk, news, parliament, manuals, captions, Bible), scored on newstest2013.

    transformer-jax train --config=mixed --workdir=runs/mixed --config.data.train=MIXED/train --config.data.dev=MIXED/dev
    transformer-jax evaluate --workdir=runs/mixed --test MIXED/dev

where MIXED is the folder with `train.en`, `train.de`, `dev.en` and `dev.de`: public corpora, shuffled, which do not come with
this project.

4.6 million parameters, made for an hour on two CPU cores: not quite one pass over the text, so that there is nothing to forget
by dropout, and small batches, which mean more updates. It took 65 minutes, 40 of them training and 24 the six evaluations, and
ended with 7.8 BLEU on newstest2013 (sacreBLEU 13a, cased, beam 4), still rising: the model had seen each pair once, and 6% of
the text is news. docs/benchmarks/mixed.md has the curve. With an accelerator, take `transformer_base` with this text.
"""

from transformer_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.train = "mixed/train"
    config.data.dev = "mixed/dev"
    config.tokenizer.vocab_size = 8000
    config.batch.tokens = 2048
    config.batch.shapes = 8
    config.batch.row_multiple = 8
    config.batch.max_length = 128
    config.model.num_layers = 3
    config.model.width = 192
    config.model.feed_forward_width = 768
    config.model.heads = 4
    config.model.norm = "pre"
    config.model.dropout = 0.0
    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = 0.002
    config.optimizer.warmup_steps = 400
    config.optimizer.clip_norm = 1.0
    config.train.steps = 4500
    config.train.log_every = 50
    config.train.evaluate_every = 750
    config.train.checkpoint_every = 750
    config.train.keep_checkpoints = 5
    config.decode.capitals = "restore"
    config.decode.spelling = "correct"
    return config
