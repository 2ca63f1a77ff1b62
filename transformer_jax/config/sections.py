"""The sections of a config: typed dataclasses, whose annotations say what each field may be.

A recipe (`transformer_jax.recipes`) or config file has a function `get_config()` that returns a `Config`. Every field can be
overridden on the command line (`--config.model.num_layers=2`). The run folder keeps the config as `config.json`, which is data
and is never executed.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from transformer_jax.config.fields import (
    AtLeast,
    AtMost,
    Between,
    Fraction,
    MayChange,
    MayDiffer,
    MayGrow,
    OnlyFor,
    OnlyWith,
    ZeroOr,
)
from transformer_jax.config.search_options import DecodeConfig
from transformer_jax.config.text_sources import TextSource

__all__ = [
    "BatchConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "TokenizerConfig",
    "TrainConfig",
]


@dataclass(slots=True)
class DataConfig:
    """Where the text is. A source is one of

    * `demo:train`, `demo:dev`, `demo:test`, `demo:long`, `demo:beyond`: the built-in corpus
    * `PREFIX`: the two files `PREFIX.<source_language>` and `PREFIX.<target_language>`, plain or `.gz`
    * `FILE.tsv` or `FILE.tsv.gz`: one pair a line, source and target separated by a tab, of two columns or as `columns` says
    * `tfds:NAME/CONFIG` or `tfds:NAME/CONFIG#SPLIT`: a data set of TensorFlow Datasets, such as `tfds:wmt14_translate/de-en`
    * `sacrebleu:NAME`: a named test set of sacreBLEU (dev and test only)

    Files may be on an object store (gs://BUCKET/...), as may `cache_dir`. Options may come after any of them:

    * `(tag=WORD)` puts WORD and a space before each source sentence, for example to tell back-translated text from other
    * `(columns=3,1)`, of a `FILE.tsv` of any number of columns, says which are source and target, from 1
    * `(upper=0.05 typos=0.1)` changes each pair with these chances, independently: the noises of `transformer_jax.data.noise`,
      `upper`, `title`, `lower`, `typos`, `spaces`, `quotes`, `no_end_punctuation`, `emoji`. A name alone, as in `(upper)`, is
      for every pair. It is drawn once; with `tokenizer.samples`, for each of the samples anew. Filters see the text before its
      noise, and pairs of sources with other noise are no duplicates: `mine, mine * 0.1 (upper)` adds a tenth of the text in
      capitals. The word of `tag` has no noise
    * `(swap=true)` exchanges source and target: the source is the text of the target's file, column or language. Filters and
      `tag` come after it. With both directions as two sources of `train`, one model learns both, from which `train.init_from`
      begins (bidirectional pretraining; Gao et al. 2022, arXiv 2206.02368)

    `train` may list several, each with a weight, how often an epoch has each of its pairs, and filters of its own:
    `wmt/europarl, wmt/news * 2, mined/web * 0.5 (max_ratio=3 tag=<web>)`. A path with a comma, a star or parentheses goes in
    double quotes: `"wmt/news, new" * 2`. In Python it may be a list of `TextSource`; `config.json` has it as text.

    More options are of sources of `train` alone:

    * `(join=0.2:2-4)`: of the examples that an epoch has of this source, a share of 0.2 are 2 to 4 pairs joined, each number
      equally likely, and the others are one pair; `(join=1:3)` always joins three. A pair is in one example only, so that an
      epoch has each pair as often as before. What is joined is drawn anew each epoch, and has at most `batch.max_length` tokens
      (bucketed: and at most `batch.tokens` / `batch.row_multiple`): a longer example is cut into several, and nothing is
      dropped. Each of the joined pairs keeps the word of `tag` (Nguyen et al. 2021, arXiv 2105.01691)
    * `(placeholders=0.1)`: with this chance a pair's equal spans (URLs, numbers, `{x}` and so on; words that both sides have)
      become numbered placeholders on both sides, and further ones are put in, so that `translate.py --protect` can carry spans
      over (`data.placeholders`). The tokenizer then has pieces for them. It is drawn as noise is, and alone means every pair
    * `(score_column=3 min_score=0.5)`, of a `FILE.tsv`, drops the pairs whose number in that column is less;
      `(scores=FILE min_score=0.5)` takes the numbers from a file with one a line, as `transformer-jax score_pairs` writes it

    `filters` names, joined by `+`, what else is dropped; a source may have its own, as in `mined/web (filters=usual+language)`:

    * `encoding`: a side has U+FFFD, private-use characters or letters of a wrong encoding (`fÃ¼r`); where text is not
      normalised (`tokenizer.normalize`), also control and zero-width characters
    * `copies`: the target is the source, and more than names and numbers
    * `script:0.5`: less than this share of a side's characters are letters of its language's script or digits
    * `repeats`: one side alone has a word four times in a row, or a letter eight times
    * `long_words:100`: a side has a word of more characters, addresses aside
    * `numbers`: the sides do not have the same numbers; 1,234.56 and 1.234,56 are the same
    * `urls`: they do not have the same addresses, on the web and of e-mail
    * `currencies`: a currency sign at a number is not on the other side, nor is its name or ISO code
    * `language:0.5`: a side of 40 characters or more is in another language with at least this probability (extra `langid`)

    `usual` stands for all but `language`; `usual-numbers` takes one away; `none` is for a source that keeps all. The log has
    the number of pairs that were dropped for each reason.

    Cleaning applies to training text alone; dev and test sets are never filtered.
    """

    train: str | list[TextSource] = "demo:train"  # the training text: one source or several, as above
    dev: str = "demo:dev"  # the text that evaluations translate and score: one source
    # more sets, commas between, each as dev: evaluations score them too and decide nothing by them, so that it shows what a
    # training forgets; empty: none
    watch: Annotated[str, MayChange()] = ""
    source_language: str = "en"  # the ending of the source's file, PREFIX.en; it also chooses where sentences end
    target_language: str = "de"  # the ending of the target's file, PREFIX.de
    max_words: int = 250  # training pairs with more white-space separated words on a side are dropped
    max_ratio: float = 9.0  # training pairs with more than this many times the other side's words, plus 5, are dropped
    deduplicate: bool = True  # keep the first of identical training pairs
    filters: str = ""  # names of filters joined by +, as above, of every source that has none of its own; empty: none
    # dev and test sets, separated by commas, that training must not see: training pairs are dropped one of whose sides is a
    # sentence of them, case and white space aside
    held_out: str = ""
    cache_dir: Annotated[str, MayChange()] = (
        ""  # where tokenised corpora are kept; empty: $XDG_CACHE_HOME/transformer_jax or ~/.cache/transformer_jax
    )


@dataclass(slots=True)
class TokenizerConfig:
    """One SentencePiece model for both languages, trained on the training text."""

    # number of pieces, special ones included, of both languages together; 0: by the number of training pairs
    # (`tokenization.tokenizer_training.usual_vocabulary`)
    vocab_size: Annotated[int, ZeroOr(5), AtMost((1 << 31) - 1)] = 0
    # where the text has too few different words for `vocab_size`: take as many pieces as it can have, instead of an error; with
    # a vocab_size of 0 it always may
    vocab_may_shrink: Annotated[bool, MayDiffer()] = False
    algorithm: Literal["bpe", "unigram"] = "bpe"  # SentencePiece's model: merges of pairs | a unigram language model
    # the share of the text's characters that the vocabulary has
    character_coverage: Annotated[float, Between(0.98, 1, "from 0.98 to 1: SentencePiece takes no other")] = 1.0
    byte_fallback: bool = True  # characters outside the vocabulary become UTF-8 bytes, so that any text survives a round trip
    sample_lines: int = 10_000_000  # train on at most two times so many lines, of both sides together
    # Text is normalised before it is cut into pieces, in training and ever after (tokenization/normalization.py): white space
    # becomes spaces, invisible characters go, letters with accents are one character. A run keeps what it was begun with.
    normalize: bool = True

    # Subword regularisation: the model sees training text (no other) segmented in several ways. Each training pair is segmented
    # `samples` times at random, and each epoch draws one of these.
    samples: Annotated[int, AtLeast(0), AtMost(1000), MayDiffer()] = 0  # 0: the best segmentation alone
    alpha: Annotated[float, MayDiffer()] = (
        0.1  # bpe: the chance of each merge to be left out (BPE-dropout); unigram: the power of the probabilities
    )


@dataclass(slots=True)
class BatchConfig:
    """How sentences become arrays of few static shapes."""

    kind: Literal["bucketed", "packed"] = "bucketed"  # one sentence a row, several shapes | many sentences a row, one shape
    # positions of the longer side of one global batch: rows times length is at most this; 0: as many as fit the devices, found
    # when the run begins and kept in its config.json (`training.batch_fit`)
    tokens: Annotated[int, AtLeast(0), AtMost(1 << 24)] = 4096
    # with tokens=0: gigabytes (10^9 bytes) of each device that a training step may take; 0: nine tenths of what the device says
    # it has, which a CPU does not say
    memory: Annotated[float, AtLeast(0)] = 0.0
    shapes: Annotated[int, AtMost(1000)] = 12  # bucketed: at most so many shapes, their edges fitted to the corpus
    # the rows of every shape are a multiple of this; devices times accumulation must divide it
    row_multiple: Annotated[int, AtMost(1 << 20)] = 64
    max_length: int = 256  # training pairs with more tokens on a side (EOS included) are dropped
    packed_length: Annotated[int, AtMost(1 << 20)] = 256  # packed: tokens in a row of the longer side


@dataclass(slots=True)
class ModelConfig:
    """The letters of `models/seq2seq.py`: D width, F feed_forward_width, H heads, K key_width, L num_layers.

    A field that its family has no use for must keep its default.
    """

    family: Literal["transformer", "lstm"] = "transformer"  # Transformer | LSTM, with or without attention
    num_layers: Annotated[int, AtMost(1000)] = 6  # L, layers of the encoder, and of the decoder unless decoder_layers says else
    width: Annotated[int, AtMost(1 << 16)] = 512  # D, of embeddings and of what layers pass on; LSTM: cells of a layer
    # all: source, target and output share one table | target: target and output | none
    tied_embeddings: Literal["all", "target", "none"] = "all"
    output_bias: bool = False  # a bias for each piece is added to the logits
    scale_embedding: bool = True  # what is read of a table is multiplied by sqrt(width)
    # imported models whose source has a vocabulary of its own: the rows of its table; 0: as many as the target's
    source_vocab_size: Annotated[int, AtLeast(0), AtMost((1 << 31) - 1)] = 0
    # Transformer: on embedding plus position and on what is added to a residual; LSTM: between layers
    dropout: Annotated[Fraction, MayDiffer()] = 0.1
    # auto: bfloat16 on TPU and GPU, float32 on CPU. Parameters and their gradients are float32. On CPU bfloat16 is for products
    # with parameters alone: faster where the processor has them (avx512_bf16), not elsewhere. float32 is float32 everywhere:
    # no operand of its products is rounded, unless JAX_DEFAULT_MATMUL_PRECISION is set in the environment
    compute_dtype: Annotated[Literal["auto", "float32", "bfloat16"], MayDiffer()] = "auto"

    # Transformer
    decoder_layers: Annotated[int, AtLeast(0), AtMost(1000), OnlyFor("transformer")] = 0  # 0: as many as num_layers
    # how a decoder layer sees the tokens before: attention | ssru, a recurrent unit (Kim et al. 2019): a search keeps a vector
    # of each layer instead of the keys and values of all tokens, as Marian's students do
    autoregression: Annotated[Literal["attention", "ssru"], OnlyFor("transformer")] = "attention"
    feed_forward_width: Annotated[int, AtMost(1 << 18), OnlyFor("transformer")] = 2048  # F, of the feed-forward layers
    heads: Annotated[int, AtMost(1 << 12), OnlyFor("transformer")] = 8  # H, of each attention
    # K, of one head's queries and keys; 0: width / heads
    key_width: Annotated[int, AtLeast(0), AtMost(1 << 16), OnlyFor("transformer")] = 0
    value_width: Annotated[int, AtLeast(0), AtMost(1 << 16), OnlyFor("transformer")] = 0  # of one head's values; 0: key_width
    # post: norm(x + f(x)), the paper's | pre: x + f(norm(x)), with a last norm on each stack
    norm: Annotated[Literal["post", "pre"], OnlyFor("transformer")] = "post"
    norm_epsilon: Annotated[float, AtMost(1), OnlyFor("transformer")] = 1e-6  # added to the variance
    # how the model sees positions. sinusoidal: sines and cosines interleaved; sinusoidal_concatenated: sines before cosines;
    # sinusoidal_marian: as Marian computes them; learned: a table; rotary: queries and keys are rotated
    positions: Annotated[
        Literal["sinusoidal", "sinusoidal_concatenated", "sinusoidal_marian", "learned", "rotary"],
        MayDiffer(unless="learned"),
        OnlyFor("transformer"),
    ] = "sinusoidal"
    # sinusoidal positions: the number of a sentence's first token; fairseq counts from 2
    first_position: Annotated[int, AtLeast(0), AtMost(1000), MayDiffer(), OnlyFor("transformer")] = 0
    # learned positions: rows of the table, and so the longest sentence the model can take
    max_positions: Annotated[int, AtMost(1 << 20), OnlyFor("transformer")] = 512
    # the decoder's first input is zeros instead of the start's embedding, as in Marian
    zero_start: Annotated[bool, MayDiffer(), OnlyFor("transformer")] = False
    # between the two feed-forward products; gelu: the approximation by tanh; gelu_exact: x Phi(x), as in PyTorch; gelu_sigmoid:
    # x sigmoid(1.702 x), as in Marian; swiglu: silu, with a gate (Shazeer 2020)
    activation: Annotated[Literal["relu", "gelu", "gelu_exact", "gelu_sigmoid", "silu", "swiglu"], OnlyFor("transformer")] = (
        "relu"
    )
    attention_bias: Annotated[bool, OnlyFor("transformer")] = False  # on queries, keys, values and what attention gives
    attention_dropout: Annotated[Fraction, MayDiffer(), OnlyFor("transformer")] = 0.0  # on the attention weights
    activation_dropout: Annotated[Fraction, MayDiffer(), OnlyFor("transformer")] = 0.0  # on the feed-forward activations
    # how a training step computes attention. plain: products and softmax, as evaluation and search always do | splash: on TPU,
    # by JAX's kernel, in bfloat16, without attention_dropout and with parallel.mode=pmap; for rows of many hundred tokens
    attention_kernel: Annotated[Literal["plain", "splash"], MayChange(), MayDiffer(), OnlyFor("transformer")] = "plain"

    # LSTM
    attention: Annotated[Literal["none", "dot", "scaled_dot", "cosine", "general", "additive"], OnlyFor("lstm")] = (
        "general"  # how the decoder scores source positions (Luong et al., Bahdanau et al.); none: it sees the last state alone
    )
    # in which the encoder reads: forward | backward, the reversed source of Sutskever et al. | both, with D/2 each
    direction: Annotated[Literal["forward", "backward", "both"], OnlyFor("lstm")] = "both"
    # the decoder also reads what attention made of the step before (Luong et al., section 3.3)
    input_feeding: Annotated[bool, OnlyFor("lstm")] = False

    @property
    def decoder_depth(self) -> int:
        """The number of the decoder's layers."""
        return self.decoder_layers or self.num_layers

    @property
    def key_head_width(self) -> int:
        """The width of one head's queries and keys."""
        return self.key_width or self.width // self.heads

    @property
    def value_head_width(self) -> int:
        """The width of one head's values."""
        return self.value_width or self.key_head_width


@dataclass(slots=True)
class OptimizerConfig:
    """The rule of the updates and its learning rate. A field that the named optimizer has no use for must keep its default."""

    # adam (Kingma and Ba 2015), with weight_decay AdamW | adafactor (Shazeer and Stern 2018): little memory; learning_rate is
    # relative to the size of each array | muon (Jordan et al. 2024): orthogonal updates of the layers' matrices, Adam for the
    # rest | lion (Chen et al. 2023): signs; a third to a tenth of Adam's learning_rate | schedule_free (Defazio et al. 2024):
    # AdamW whose average of the parameters replaces a decay of the rate, and is what is evaluated; schedule must be constant
    name: Literal["adam", "adafactor", "muon", "lion", "schedule_free"] = "adam"
    # of the learning rate after a linear warm-up: inverse_sqrt, the paper's | constant | cosine, down to zero
    schedule: Literal["inverse_sqrt", "constant", "cosine"] = "inverse_sqrt"
    learning_rate: Annotated[float, AtLeast(0)] = 0.0  # the peak; 0: the paper's, (width * warmup_steps) ** -0.5
    warmup_steps: Annotated[int, AtLeast(0), AtMost((1 << 31) - 1)] = 4000  # updates in which the rate rises from 0 to its peak
    decay_steps: Annotated[int, AtLeast(0)] = 0  # cosine: the step at which the rate reaches zero; 0: train.steps
    # adam, muon (where it is Adam): decay of the mean of gradients; lion: the mean's share in the update; schedule_free: the
    # average's share in the parameters at which gradients are taken
    beta1: Annotated[Fraction, OnlyWith("adam", "muon", "lion", "schedule_free")] = 0.9
    # adam, muon (where it is Adam), schedule_free: decay of the mean of squared gradients; lion: of the mean of gradients
    beta2: Annotated[Fraction, OnlyWith("adam", "muon", "lion", "schedule_free")] = 0.98
    # adam, muon (where it is Adam), schedule_free: added to the root of the mean of squares
    epsilon: Annotated[float, OnlyWith("adam", "muon", "schedule_free")] = 1e-9
    weight_decay: Annotated[float, AtLeast(0)] = 0.0  # decoupled (AdamW), on matrices only; of every optimizer
    clip_norm: Annotated[float, AtLeast(0)] = 0.0  # largest global norm of the gradient; 0: no clipping


@dataclass(slots=True)
class TrainConfig:
    """The loop: how long, how often, from which seed. Steps are updates of the parameters."""

    steps: Annotated[int, MayGrow()] = 100_000  # updates in all
    # of the first parameters, the order of the text and dropout; 2**64 - 1 at most
    seed: Annotated[int, AtLeast(0), AtMost((1 << 64) - 1)] = 0
    # RUN or RUN:CHECKPOINT, whose parameters and tokenizer a new run begins with: model and tokenizer.* must be as there (but
    # dropout, compute_dtype, first_position, positions unless learned, tokenizer.samples, alpha), unless the next two keys say
    # otherwise; empty: with fresh ones
    init_from: str = ""
    # same: the tokenizer of that run | own: one trained on this run's text; rows of pieces that both have are taken, and
    # a new piece begins with the mean of the rows of its parts (Gee et al. 2022)
    init_tokenizer: Literal["same", "own"] = "same"
    # same: the model of that run | partial: another one, such as one of more layers; parameters with a name and shape that both
    # have are taken, the others begin fresh, and the log names them
    init_model: Literal["same", "partial"] = "same"
    # patterns of the parameters that do not change, commas between: of their paths, or of a path's beginning up to a slash,
    # such as `encoder_*, *embedding`; empty: all change
    freeze: str = ""
    # LoRA (Hu et al. 2021): r, the rank of adapters that train beside the parameters of init_from, which stay; 0: none
    lora_rank: Annotated[int, AtLeast(0), AtMost(1 << 16)] = 0
    lora_alpha: Annotated[float, AtLeast(0)] = 0.0  # what they add is multiplied by lora_alpha / lora_rank; 0: as lora_rank
    # which products have adapters: attention, feed_forward, all, or patterns as in freeze of their kernels, commas between
    lora_on: str = "all"
    label_smoothing: Fraction = 0.1  # the share of the target distribution that is spread over all pieces
    # each batch passes through the model twice, and the loss also has how far the two predictions are apart: simcut (Gao et al.
    # 2022), without and with the embeddings of some tokens | rdrop (Liang et al. 2021), with two dropout masks | none, one pass
    consistency: Literal["none", "simcut", "rdrop"] = "none"
    # alpha, the weight of that divergence; 0: the papers' for translation, 3 for simcut and 5 for rdrop
    consistency_weight: Annotated[float, AtLeast(0)] = 0.0
    cut: Fraction = 0.05  # simcut: the share of tokens whose embeddings are zero in the second pass
    accumulation: int = 1  # each batch is worked through in so many slices: the memory of one slice, the update of the whole
    # what the backward pass computes again instead of keeping it, for less memory and more time (gradient checkpointing; Chen
    # et al. 2016): none | layers, all but the input of each layer, or with input_feeding of each step | products, all but those
    # inputs and the products with parameters (transformer). Gradients agree up to float rounding
    remat: Annotated[Literal["none", "layers", "products"], MayChange()] = "none"
    log_every: Annotated[int, MayChange()] = 100  # updates between two lines of metrics about the training text
    evaluate_every: int = 1000  # updates between two evaluations of the dev set
    # by which a checkpoint is best on the dev set
    metric: Literal["bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL", "loss"] = "bleu"
    # dev sentences whose translations are written to the log at each evaluation
    samples: Annotated[int, AtLeast(0), MayChange()] = 3
    checkpoint_every: Annotated[int, MayChange()] = 1000  # updates between two checkpoints
    # the latest so many are kept, and the best
    keep_checkpoints: Annotated[int, Between(2, math.inf, "2 or more: one to go back to"), MayChange()] = 10
    patience: Annotated[int, AtLeast(0)] = 0  # stop after so many evaluations without a better score; 0: never
    # keep and evaluate an exponential moving average of the parameters (0.9999 is usual); 0: none
    ema_decay: Fraction = 0.0
    # leave out so many updates in which a number is not finite before giving up; 0: give up at the first
    max_skipped: Annotated[int, AtLeast(0), MayChange()] = 0


@dataclass(slots=True)
class ParallelConfig:
    """How a training is spread over accelerators. Parameters agree up to float summation order, with dropout off: with it on,
    these fields and the number of devices change the masks, and nothing else."""

    # pmap: every device has the whole state | sharded: each has a part of what is large (FSDP)
    mode: Annotated[Literal["pmap", "sharded"], MayChange()] = "pmap"
    min_sharded_size: Annotated[int, MayChange()] = 65_536  # sharded: arrays of fewer numbers are whole on every device
    # pmap: the type in which gradients are added up over devices; bfloat16 halves the bytes, and rounds each addition
    reduce_dtype: Annotated[Literal["float32", "bfloat16"], MayChange()] = "float32"


@dataclass(slots=True)
class Config:
    """All of them, as a run folder keeps them in `config.json`."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
