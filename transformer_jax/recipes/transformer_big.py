"""Transformer big on WMT14 English-German (Vaswani et al. 2017, Table 3, row "big"): 214 million parameters.

    transformer-jax train --config=transformer_big --workdir=runs/big
    transformer-jax evaluate --workdir=runs/big --checkpoint=average:20 --test sacrebleu:wmt14/full --paper_bleu

Hardware: eight accelerators, as in the paper; --config.train.accumulation=N divides the memory of a step by N. Not yet trained
here. Expected from the literature: 28.4 BLEU on newstest2014 in the paper's way of counting (tokenised, compounds split),
fairseq's run of the model 29.29 in that way and 28.6 in sacreBLEU's.
"""

from transformer_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.train = "tfds:wmt14_translate/de-en"
    config.data.dev = "tfds:wmt14_translate/de-en#validation"  # newstest2013
    config.tokenizer.vocab_size = 37_000
    config.tokenizer.sample_lines = 500_000
    config.batch.tokens = 25_600
    config.batch.max_length = 256
    config.model.num_layers = 6
    config.model.width = 1024
    config.model.feed_forward_width = 4096
    config.model.heads = 16
    config.model.dropout = 0.3
    config.optimizer.warmup_steps = 4000
    config.train.steps = 300_000
    config.train.label_smoothing = 0.1
    config.train.evaluate_every = 5000
    config.train.checkpoint_every = 1500
    config.train.keep_checkpoints = 20
    return config
