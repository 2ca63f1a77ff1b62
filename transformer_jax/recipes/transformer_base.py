"""Transformer base on WMT14 English-German (Vaswani et al. 2017, Table 3, row "base"): 63 million parameters.

    transformer-jax train --config=transformer_base --workdir=runs/base
    transformer-jax evaluate --workdir=runs/base --checkpoint=average:5 --test sacrebleu:wmt14/full --paper_bleu

Hardware: eight accelerators, as in the paper; fewer take longer, and --config.train.accumulation=N divides the memory of a
step by N. Not yet trained here. Expected from the literature: 26.9 BLEU (sacreBLEU, cased, OpenNMT-tf's run of the same model)
on newstest2014, where the paper's 27.3 counts tokenised text with compounds split.
"""

from transformer_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.train = "tfds:wmt14_translate/de-en"
    config.data.dev = "tfds:wmt14_translate/de-en#validation"  # newstest2013
    config.tokenizer.vocab_size = 37_000
    config.tokenizer.sample_lines = 500_000
    config.batch.tokens = 25_600  # positions; the paper has about 25,000 tokens of each side in a batch
    config.batch.max_length = 256
    config.model.num_layers = 6
    config.model.width = 512
    config.model.feed_forward_width = 2048
    config.model.heads = 8
    config.model.dropout = 0.1
    config.optimizer.warmup_steps = 4000
    config.train.steps = 100_000
    config.train.label_smoothing = 0.1
    config.train.evaluate_every = 5000
    config.train.checkpoint_every = 1500  # the paper saves every ten minutes and averages the last five
    config.train.keep_checkpoints = 5
    return config
