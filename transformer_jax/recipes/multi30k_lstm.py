"""Multi30k English-German captions (29,000 pairs), as written: cased, not tokenised; an LSTM without attention.

    transformer-jax train --config=multi30k_lstm --workdir=runs/multi30k_lstm \
        --config.data.train=MULTI30K/train --config.data.dev=MULTI30K/val
    transformer-jax evaluate --workdir=runs/multi30k_lstm --test MULTI30K/test_2016_flickr

where MULTI30K is the folder with `train.en`, `train.de`, `val.en` and so on (Elliott et al. 2016; task1/raw of
github.com/multi30k/dataset).

4.1 million parameters, 1,400 updates (10 epochs, 4.9 million target tokens). Two CPU cores: 53 minutes beside another
training. Then 17.8 BLEU on test_2016_flickr (sacreBLEU, cased, 13a, beam 4), 18.0 on val.
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
    config.model.family = "lstm"
    config.model.attention = "none"
    config.model.direction = "backward"
    config.model.num_layers = 2
    config.model.width = 256
    config.model.dropout = 0.3
    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = 0.003
    config.optimizer.warmup_steps = 200
    config.optimizer.clip_norm = 1.0
    config.train.steps = 1400
    config.train.log_every = 100
    config.train.evaluate_every = 350
    config.train.checkpoint_every = 350
    config.train.keep_checkpoints = 5
    return config
