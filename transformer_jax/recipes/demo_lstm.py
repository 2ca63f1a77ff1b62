"""The built-in corpus with an LSTM that squeezes a sentence into one vector (Sutskever et al. 2014): no attention.

    transformer-jax train --config=demo_lstm --workdir=runs/demo_lstm
    transformer-jax evaluate --workdir=runs/demo_lstm --test demo:test demo:long demo:beyond

About as many parameters as `demo_full.py` (1.7 million), with its batches and updates. Two CPU cores: 14 minutes beside other
work. Then, by the best checkpoint on demo:dev (sacreBLEU 13a, cased, beam 4):

             BLEU   exactly right   right gender of pronouns
    test     69.8       46.8%               67.5%
    long     44.9        2.8%               44.4%     one vector for a whole sentence: the longer, the less of it is left
    beyond   19.7        0.0%               42.2%
"""

from transformer_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.train = "demo:train"
    config.data.dev = "demo:dev"
    config.tokenizer.vocab_size = 2000
    config.batch.tokens = 1024
    config.batch.shapes = 2
    config.batch.row_multiple = 8
    config.batch.max_length = 64
    config.model.family = "lstm"
    config.model.attention = "none"
    config.model.direction = "backward"
    config.model.num_layers = 2
    config.model.width = 200
    config.model.dropout = 0.1
    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = 0.003
    config.optimizer.warmup_steps = 300
    config.optimizer.clip_norm = 1.0
    config.train.steps = 6000
    config.train.label_smoothing = 0.1
    config.train.log_every = 100
    config.train.evaluate_every = 1000
    config.train.checkpoint_every = 1000
    config.train.keep_checkpoints = 3
    return config
