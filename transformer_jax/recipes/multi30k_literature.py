"""Multi30k as the literature measures it: lower-cased, tokenised text, Transformer-tiny (Wu et al. 2021: 41.02 BLEU).

    transformer-jax train --config=multi30k_literature --workdir=runs/multi30k_literature \
        --config.data.train=MULTI30K/lc_norm_tok/train --config.data.dev=MULTI30K/lc_norm_tok/val
    transformer-jax evaluate --workdir=runs/multi30k_literature --checkpoint=average:10 \
        --tokenize=none --test=MULTI30K/lc_norm_tok/test_2016_flickr

2.6 million parameters, at most 8000 updates, until the dev loss has not fallen for ten epochs. Two seeds, each on one core with
other work beside it: 203 and 174 minutes to updates 6540 and 5400; a third, to 7200, in parts on one core and on two (on two
alone an update takes 0.7 seconds). The average of the last ten checkpoints: 40.7, 41.7 and 40.8 BLEU on test_2016_flickr
(`tok:none`), 41.1 in the mean; 41.8, 41.9 and 41.5 on val.

As published: batches of 8,192 positions (two GPUs of 4,096), biases in the projections of attention, the layer norm's epsilon,
the form of the sinusoids and their first position, and a score of sum log P / n. What is not: pieces are SentencePiece's of the
joined text and not subword-nmt's, products are of bfloat16 and not of float16, and batches are of similar lengths on both
sides.
"""

from transformer_jax.config import Config


def get_config() -> Config:
    config = Config()
    config.data.train = "multi30k/lc_norm_tok/train"
    config.data.dev = "multi30k/lc_norm_tok/val"
    config.tokenizer.vocab_size = 10_000
    config.batch.tokens = 8192
    config.batch.row_multiple = 8
    config.batch.max_length = 128
    config.model.num_layers = 4
    config.model.width = 128
    config.model.feed_forward_width = 256
    config.model.heads = 4
    config.model.dropout = 0.3
    config.model.attention_bias = True
    config.model.norm_epsilon = 1e-5
    config.model.positions = "sinusoidal_marian"
    config.model.first_position = 2
    config.model.compute_dtype = "bfloat16"
    config.optimizer.learning_rate = 0.005
    config.optimizer.warmup_steps = 2000
    config.optimizer.epsilon = 1e-8
    config.train.steps = 8000
    config.train.log_every = 100
    config.train.evaluate_every = 60  # about an epoch
    config.train.metric = "loss"  # as in the paper's code
    config.train.patience = 10
    config.train.checkpoint_every = 60
    config.train.keep_checkpoints = 10
    config.decode.beam = 5
    config.decode.length_normalization = "power"
    config.decode.length_penalty = 1.0
    return config
