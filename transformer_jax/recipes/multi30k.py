"""Multi30k English-German captions (29,000 pairs), as written: cased, not tokenised.

    transformer-jax train --config=multi30k --workdir=runs/multi30k \
        --config.data.train=MULTI30K/train --config.data.dev=MULTI30K/val
    transformer-jax evaluate --workdir=runs/multi30k --test MULTI30K/test_2016_flickr

where MULTI30K is the folder with `train.en`, `train.de`, `val.en` and so on (Elliott et al. 2016; task1/raw of
github.com/multi30k/dataset).

2.4 million parameters, made for minutes of two CPU cores that multiply bfloat16 (`avx512_bf16`): 6 minutes 54 seconds from the
command to 38.5 BLEU on val, all compilation included; 38.4 on test_2016_flickr (sacreBLEU 13a, cased, beam 4). With other
processors --config.model.compute_dtype=float32 is as fast or faster. docs/benchmarks/leaderboard.md has what was tried.
"""

from transformer_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.train = "multi30k/train"
    config.data.dev = "multi30k/val"
    config.tokenizer.vocab_size = 8000
    config.batch.kind = "packed"
    config.batch.tokens = 2048
    config.batch.packed_length = 64
    config.batch.row_multiple = 8
    config.batch.max_length = 64
    config.model.num_layers = 3
    config.model.width = 128
    config.model.feed_forward_width = 512
    config.model.heads = 4
    config.model.positions = "rotary"
    config.model.norm = "pre"
    config.model.dropout = 0.1
    config.model.compute_dtype = "bfloat16"
    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = 0.006
    config.optimizer.warmup_steps = 400
    config.optimizer.clip_norm = 1.0
    config.train.steps = 1800
    config.train.log_every = 100
    config.train.evaluate_every = 1800
    config.train.checkpoint_every = 900
    config.train.keep_checkpoints = 5
    config.decode.capitals = "restore"
    config.decode.spelling = "correct"
    return config
