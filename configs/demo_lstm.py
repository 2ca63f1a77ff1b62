"""The built-in corpus with an LSTM that squeezes a sentence into one vector (Sutskever et al. 2014): no attention.

    python train.py --config=configs/demo_lstm.py --workdir=runs/demo_lstm
    python evaluate.py --workdir=runs/demo_lstm --test demo:test demo:long demo:beyond

About as many parameters as `demo_full.py`, with its batches and updates. Not yet trained to its end here.
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
