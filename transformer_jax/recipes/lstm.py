"""An LSTM encoder-decoder without attention on WMT14 English-German: one vector carries the sentence.

    transformer-jax train --config=lstm --workdir=runs/lstm
    transformer-jax evaluate --workdir=runs/lstm --test sacrebleu:wmt14/full

After Luong et al. 2015: four layers of 1000 (here 1024) cells, the source reversed, dropout 0.2, gradients clipped at 5, twelve
epochs; unlike theirs with a shared vocabulary of subwords and Adam.

Hardware: one accelerator; --config.train.accumulation=N divides the memory of a step by N. Not yet trained here. Expected from
the literature: 14.0 BLEU on newstest2014 in the paper's way of counting (tokenised).
"""

from transformer_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.train = "tfds:wmt14_translate/de-en"
    config.data.dev = "tfds:wmt14_translate/de-en#validation"  # newstest2013
    config.tokenizer.vocab_size = 32_000
    config.batch.tokens = 16_384
    config.batch.max_length = 128
    config.model.family = "lstm"
    config.model.attention = "none"
    config.model.direction = "backward"
    config.model.num_layers = 4
    config.model.width = 1024
    config.model.tied_embeddings = "none"
    config.model.dropout = 0.2
    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = 0.001
    config.optimizer.warmup_steps = 4000
    config.optimizer.beta2 = 0.999
    config.optimizer.epsilon = 1e-8
    config.optimizer.clip_norm = 5.0
    config.train.steps = 110_000
    config.train.label_smoothing = 0.0
    config.train.evaluate_every = 5000
    config.train.checkpoint_every = 2500
    config.train.keep_checkpoints = 5
    return config
