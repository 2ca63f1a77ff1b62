"""Multi30k English-German captions (29,000 pairs), as written: cased, not tokenised.

    transformer-jax train --config=multi30k --workdir=runs/multi30k \
        --config.data.train=MULTI30K/train --config.data.dev=MULTI30K/val
    transformer-jax evaluate --workdir=runs/multi30k --test MULTI30K/test_2016_flickr

where MULTI30K is the folder with `train.en`, `train.de`, `val.en` and so on (Elliott et al. 2016; task1/raw of
github.com/multi30k/dataset).

4 million parameters. Two CPU cores that had other work too: 53 minutes (66 minutes of CPU time), then 38.1 BLEU on
test_2016_flickr (sacreBLEU 13a, cased, the best of four checkpoints by dev BLEU, beam 4).
"""

from transformer_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.train = "multi30k/train"
    config.data.dev = "multi30k/val"
    config.tokenizer.vocab_size = 8000
    config.batch.tokens = 4096
    config.batch.shapes = 8
    config.batch.row_multiple = 8
    config.batch.max_length = 128
    config.model.num_layers = 3
    config.model.width = 192
    config.model.feed_forward_width = 512
    config.model.heads = 4
    config.model.norm = "pre"
    config.model.dropout = 0.2
    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = 0.003
    config.optimizer.warmup_steps = 400
    config.optimizer.clip_norm = 1.0
    config.train.steps = 2000
    config.train.log_every = 100
    config.train.evaluate_every = 500
    config.train.checkpoint_every = 500
    config.train.keep_checkpoints = 5
    return config
