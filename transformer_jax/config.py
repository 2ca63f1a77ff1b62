"""What defines a run: typed dataclasses, validated as a whole, to and from JSON.

A config file in `configs/` has a function `get_config()` that returns a `Config`. Every field can be overridden on the command
line (`--config.model.num_layers=2`). The run folder keeps the config as `config.json`, which is data and is never executed.
"""

import dataclasses
import difflib
import json
import math
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from transformer_jax.errors import UserError

__all__ = [
    "BatchConfig",
    "Config",
    "DataConfig",
    "DecodeConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "TokenizerConfig",
    "TrainConfig",
    "continued",
    "differences",
    "from_json",
    "full_name",
    "is_config_class",
    "override",
    "to_json",
    "unknown_key",
    "validate",
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

    `train` may list several, each with a weight, how often an epoch has each of its pairs, and filters of its own:
    `wmt/europarl, wmt/news * 2, mined/web * 0.5 (max_ratio=3 tag=<web>)`. A path with a comma, a star or parentheses goes in
    double quotes: `"wmt/news, new" * 2`.

    Cleaning applies to training text alone; dev and test sets are never filtered.
    """

    train: str = "demo:train"
    dev: str = "demo:dev"
    source_language: str = "en"
    target_language: str = "de"
    max_words: int = 250  # training pairs with more white-space separated words on a side are dropped
    max_ratio: float = 9.0  # ... and pairs where one side has more than this many times the words of the other, plus 5
    deduplicate: bool = True  # keep the first of identical training pairs
    cache_dir: str = ""  # where tokenised corpora are kept; empty: $XDG_CACHE_HOME/transformer_jax or ~/.cache/transformer_jax


@dataclass(slots=True)
class TokenizerConfig:
    """One SentencePiece model for both languages, trained on the training text."""

    vocab_size: int = 8000
    algorithm: str = "bpe"  # bpe | unigram
    character_coverage: float = 1.0  # from 0.98 on: the share of the text's characters that the vocabulary has
    byte_fallback: bool = True  # characters outside the vocabulary become UTF-8 bytes, so that any text survives a round trip
    sample_lines: int = 10_000_000  # train on at most two times so many lines, of both sides together
    # Text is normalised before it is cut into pieces, in training and ever after (data/normalization.py): white space becomes
    # spaces, invisible characters go, letters with accents are one character. A run keeps what it was begun with.
    normalize: bool = True

    # Subword regularisation: the model sees training text (no other) segmented in several ways.
    samples: int = 0  # each training pair is segmented so often at random, and each epoch draws one of these; 0: the best alone
    alpha: float = 0.1  # bpe: the chance of each merge to be left out (BPE-dropout); unigram: the power of the probabilities


@dataclass(slots=True)
class BatchConfig:
    """How sentences become arrays of few static shapes."""

    kind: str = "bucketed"  # bucketed: one sentence a row, several shapes | packed: many sentences a row, one shape
    tokens: int = 4096  # positions of the longer side of one global batch: rows times length is at most this
    shapes: int = 12  # bucketed: at most so many shapes, their edges fitted to the corpus
    row_multiple: int = 64  # the rows of every shape are a multiple of this; devices times accumulation must divide it
    max_length: int = 256  # training pairs with more tokens on a side (EOS included) are dropped
    packed_length: int = 256  # packed: tokens in a row of the longer side


@dataclass(slots=True)
class ModelConfig:
    """The letters of `models/seq2seq.py`: D width, F feed_forward_width, H heads, K key_width, L num_layers.

    A field that its family has no use for must keep its default.
    """

    family: str = "transformer"  # transformer | lstm
    num_layers: int = 6
    width: int = 512
    tied_embeddings: str = "all"  # all: source, target and output share one table | target: target and output | none
    output_bias: bool = False
    scale_embedding: bool = True  # what is read of a table is multiplied by sqrt(width)
    dropout: float = 0.1  # Transformer: on embedding plus position and on what is added to a residual; LSTM: between layers
    # float32 | bfloat16 | auto: bfloat16 on TPU and GPU, float32 on CPU. Parameters and their gradients are float32. On CPU
    # bfloat16 is for products with parameters alone: faster where the processor has them (avx512_bf16), not elsewhere
    compute_dtype: str = "auto"

    # Transformer
    decoder_layers: int = 0  # 0: as many as num_layers
    feed_forward_width: int = 2048
    heads: int = 8
    key_width: int = 0  # of one head's queries and keys; 0: width / heads
    value_width: int = 0  # of one head's values; 0: key_width
    norm: str = "post"  # post: norm(x + f(x)), the paper's | pre: x + f(norm(x)), with a last norm on each stack
    norm_epsilon: float = 1e-6  # added to the variance
    # sinusoidal (interleaved) | sinusoidal_concatenated | sinusoidal_marian (see models/layers.py) | learned | rotary
    positions: str = "sinusoidal"
    max_positions: int = 512  # learned positions: rows of the table, and so the longest sentence the model can take
    activation: str = "relu"  # relu | gelu | silu | swiglu
    attention_bias: bool = False  # on queries, keys, values and what attention gives
    attention_dropout: float = 0.0  # on the attention weights
    activation_dropout: float = 0.0  # on the feed-forward activations

    # LSTM
    attention: str = "general"  # dot | scaled_dot | cosine | general | additive | none: the decoder sees the last state alone
    direction: str = "both"  # of reading: forward | backward, the reversed source of Sutskever et al. | both, with D/2 each
    input_feeding: bool = False  # the decoder also reads what attention made of the step before (Luong et al., section 3.3)


@dataclass(slots=True)
class OptimizerConfig:
    """Adam (Kingma and Ba, 2015) and its learning rate."""

    schedule: str = "inverse_sqrt"  # inverse_sqrt (the paper's) | constant | cosine; each after a linear warm-up
    learning_rate: float = 0.0  # the peak; 0: the paper's, (width * warmup_steps) ** -0.5
    warmup_steps: int = 4000
    decay_steps: int = 0  # cosine: the step at which the rate reaches zero; 0: train.steps
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-9
    weight_decay: float = 0.0  # decoupled (AdamW), on matrices only
    clip_norm: float = 0.0  # largest global norm of the gradient; 0: no clipping


@dataclass(slots=True)
class TrainConfig:
    """The loop: how long, how often, from which seed. Steps are updates of the parameters."""

    steps: int = 100_000
    seed: int = 0  # of the first parameters, the order of the text and dropout; 2**64 - 1 at most
    # RUN or RUN:CHECKPOINT, whose parameters and tokenizer a new run begins with: model and tokenizer.* must be as there (but
    # dropout, compute_dtype, tokenizer.samples, alpha); empty: with fresh ones
    init_from: str = ""
    label_smoothing: float = 0.1
    accumulation: int = 1  # each batch is worked through in so many slices: the memory of one slice, the update of the whole
    log_every: int = 100
    evaluate_every: int = 1000
    metric: str = "bleu"  # by which a checkpoint is best on the dev set: bleu | chrf | ter | rouge1 | rouge2 | rougeL | loss
    samples: int = 3  # dev sentences whose translations are written to the log at each evaluation
    checkpoint_every: int = 1000
    keep_checkpoints: int = 10  # the latest so many (2 or more: one to go back to) are kept, and the best
    patience: int = 0  # stop after so many evaluations without a better score; 0: never
    ema_decay: float = 0.0  # keep and evaluate an exponential moving average of the parameters (0.9999 is usual); 0: none
    max_skipped: int = 0  # leave out so many updates in which a number is not finite before giving up; 0: give up at the first


@dataclass(slots=True)
class ParallelConfig:
    """How a training is spread over accelerators. Parameters agree up to float summation order, with dropout off."""

    mode: str = "pmap"  # pmap: every device has the whole state | sharded: each has a part of what is large (FSDP)
    min_sharded_size: int = 65_536  # sharded: arrays of fewer numbers are whole on every device


@dataclass(slots=True)
class DecodeConfig:
    """Search (Wu et al. 2016 for the length penalty)."""

    beam: int = 4  # 1: greedy; at most 10,000
    length_penalty: float = 0.6
    coverage_penalty: float = 0.0  # what score loses for source tokens that got little attention; 0.2 is usual
    # a translation has at most ratio * (source tokens) + extra tokens; the ratio may be 1,000, extra 100,000 at most
    max_length_ratio: float = 2.0
    max_length_extra: int = 16
    min_length_ratio: float = 0.0  # ... and at least ratio * (source tokens) + extra tokens, EOS included
    min_length_extra: int = 0
    no_repeat_ngram: int = 0  # no run of so many tokens comes twice; 0: it may
    # Which lines are translated sentence by sentence: never | long: those of more than batch.max_length tokens, as many
    # sentences together as have the usual length of training's sources (the 95th percentile) | always
    split_sentences: str = "long"
    nbest: int = 1  # how many translations of each sentence; of a beam at most as many as it has
    tokens: int = 0  # source positions decoded at once, counted for each hypothesis; 0: 4096 on CPU, 65,536 elsewhere
    alignment_layer: int = 0  # whose attention aligns words, from 1; 0: the one that aligned the dev set best

    # Sampling, instead of search: each token is drawn.
    temperature: float = 0.0  # 0: search; else tokens are drawn with probability P^(1 / temperature) / Z
    top_k: int = 0  # ... from so many of the most probable; 0: from all
    top_p: float = 1.0  # ... from the fewest that have this share of the probability together
    seed: int = 0  # what is drawn for a sentence is a function of seed and sentence; 2**64 - 1 at most


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


_CHOICES = {
    "model.family": ("transformer", "lstm"),
    "tokenizer.algorithm": ("bpe", "unigram"),
    "batch.kind": ("bucketed", "packed"),
    "model.norm": ("post", "pre"),
    "model.positions": ("sinusoidal", "sinusoidal_concatenated", "sinusoidal_marian", "learned", "rotary"),
    "model.tied_embeddings": ("all", "target", "none"),
    "model.activation": ("relu", "gelu", "silu", "swiglu"),
    "model.attention": ("none", "dot", "scaled_dot", "cosine", "general", "additive"),
    "model.direction": ("forward", "backward", "both"),
    "model.compute_dtype": ("auto", "float32", "bfloat16"),
    "optimizer.schedule": ("inverse_sqrt", "constant", "cosine"),
    "parallel.mode": ("pmap", "sharded"),
    "decode.split_sentences": ("never", "long", "always"),
    "train.metric": ("bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL", "loss"),
}
_AT_LEAST_ZERO = (
    "model.decoder_layers model.key_width model.value_width optimizer.learning_rate optimizer.warmup_steps "
    "optimizer.decay_steps "
    "optimizer.weight_decay optimizer.clip_norm train.seed train.samples train.patience train.max_skipped "
    "tokenizer.samples decode.length_penalty decode.max_length_ratio decode.max_length_extra decode.alignment_layer "
    "decode.min_length_ratio decode.min_length_extra decode.no_repeat_ngram "
    "decode.coverage_penalty decode.temperature decode.tokens decode.top_k decode.seed"
).split()
# What is larger than these could only end in a crash. Any other whole number may be 2**63 - 1 at most, any other number 1e30.
_AT_MOST = {
    "tokenizer.samples": 1000,
    "batch.tokens": 1 << 24,
    "batch.shapes": 1000,
    "batch.row_multiple": 1 << 20,
    "batch.packed_length": 1 << 20,
    "model.num_layers": 1000,
    "model.decoder_layers": 1000,
    "model.width": 1 << 16,
    "model.feed_forward_width": 1 << 18,
    "model.heads": 1 << 12,
    "model.key_width": 1 << 16,
    "model.value_width": 1 << 16,
    "model.max_positions": 1 << 20,
    "model.norm_epsilon": 1,
    "optimizer.warmup_steps": (1 << 31) - 1,
    "train.seed": (1 << 64) - 1,
    "decode.beam": 10_000,
    "decode.nbest": 10_000,
    "decode.length_penalty": 10,
    "decode.coverage_penalty": 1000,
    "decode.max_length_ratio": 1000,
    "decode.max_length_extra": 100_000,
    "decode.min_length_ratio": 1000,
    "decode.min_length_extra": 100_000,
    "decode.no_repeat_ngram": 100_000,
    "decode.temperature": 1e6,
    "decode.top_p": 1,
    "decode.seed": (1 << 64) - 1,
}
_LEAST_TEMPERATURE = 1e-6  # below it, log P / temperature is no number of 32 bits
_FRACTIONS = (
    "model.dropout model.attention_dropout model.activation_dropout optimizer.beta1 optimizer.beta2 train.label_smoothing "
    "train.ema_decay"
).split()
# What one family alone has a use for.
_OWN = {
    "transformer": (
        "decoder_layers feed_forward_width heads key_width value_width norm norm_epsilon positions max_positions activation "
        "attention_bias attention_dropout activation_dropout"
    ).split(),
    "lstm": "attention direction input_feeding".split(),
}
# What may differ when a run goes on: none of it changes the parameters that a given step has.
_MAY_CHANGE = {
    "data.cache_dir",
    "decode.alignment_layer",
    "decode.tokens",
    "train.steps",
    "train.log_every",
    "train.samples",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.max_skipped",
    # With dropout on, these and the number of devices change the masks, and nothing else.
    "parallel.mode",
    "parallel.min_sharded_size",
}


def validate(config: Config) -> Config:
    """Returns `config` unchanged, or raises UserError naming the first field whose type or value cannot be.

    >>> validate(Config(model=ModelConfig(heads=7)))
    Traceback (most recent call last):
    transformer_jax.errors.UserError: config: model.heads=7 should be a divisor of model.width=512
    """
    _build(Config, dataclasses.asdict(config), "config")
    flat = _flatten(config)
    for name, value in flat.items():
        if name in _CHOICES:
            _require(
                value in _CHOICES[name], name, value, f"one of {', '.join(_CHOICES[name])}{_nearest(value, _CHOICES[name])}"
            )
        elif name in _FRACTIONS:
            _require(0 <= value < 1, name, value, "at least 0 and below 1")
        elif name in _AT_LEAST_ZERO:
            _require(value >= 0, name, value, "0 or more")
        elif _is_number(value):
            _require(value > 0, name, value, "more than 0")
        if _is_number(value):
            most = _AT_MOST.get(name, 1e30 if isinstance(value, float) else (1 << 63) - 1)
            _require(value <= most, name, value, f"at most {most:,}" if isinstance(most, int) else f"at most {most:g}")
    tokenizer, decode = config.tokenizer, config.decode
    size, coverage = tokenizer.vocab_size, tokenizer.character_coverage
    _require(4 < size < 2**31, "tokenizer.vocab_size", size, "at least 5, four of them special, and below 2**31")
    _require(0.98 <= coverage <= 1, "tokenizer.character_coverage", coverage, "from 0.98 to 1: SentencePiece takes no other")
    chance = tokenizer.algorithm != "bpe" or tokenizer.alpha <= 1
    _require(chance, "tokenizer.alpha", tokenizer.alpha, "at most 1 with tokenizer.algorithm=bpe: a chance")
    most = f"at most decode.beam={decode.beam}, or with decode.temperature above 0"
    _require(decode.temperature > 0 or decode.nbest <= decode.beam, "decode.nbest", decode.nbest, most)
    covers = not decode.coverage_penalty or (decode.beam > 1 and not decode.temperature)
    expected = "0 with decode.beam=1 and with decode.temperature: nothing is chosen by scores there"
    _require(covers, "decode.coverage_penalty", decode.coverage_penalty, expected)
    least = f"0 or at least {_LEAST_TEMPERATURE:g}"
    _require(not 0 < decode.temperature < _LEAST_TEMPERATURE, "decode.temperature", decode.temperature, least)
    _validate_model(config.model, config.batch)
    batch, train = config.batch, config.train
    if batch.kind == "packed":
        length = batch.packed_length
        _require(batch.max_length <= length, "batch.max_length", batch.max_length, f"at most batch.packed_length={length}")
        smallest = batch.row_multiple * length
        _require(batch.tokens >= smallest, "batch.tokens", batch.tokens, f"at least row_multiple * packed_length = {smallest}")
    _require(train.keep_checkpoints >= 2, "train.keep_checkpoints", train.keep_checkpoints, "2 or more: one to go back to")
    multiple = batch.row_multiple
    _require(
        multiple % train.accumulation == 0,
        "train.accumulation",
        train.accumulation,
        f"a divisor of batch.row_multiple={multiple}",
    )
    return config


def _validate_model(model: ModelConfig, batch: BatchConfig) -> None:
    for family, names in _OWN.items():
        for name in names if family != model.family else ():
            value, default = getattr(model, name), getattr(ModelConfig(), name)
            _require(value == default, f"model.{name}", value, f"left out: model.family={model.family} has no use for it")
    if model.family == "lstm":
        _require(batch.kind != "packed", "batch.kind", batch.kind, "bucketed: an LSTM would run on from sentence to sentence")
        if model.direction == "both":
            _require(model.width % 2 == 0, "model.width", model.width, "even: each direction of the encoder has half of it")
        if model.attention == "none":
            _require(not model.input_feeding, "model.input_feeding", True, "false where model.attention is none")
        return
    if not model.key_width:
        _require(model.width % model.heads == 0, "model.heads", model.heads, f"a divisor of model.width={model.width}")
    if model.positions.startswith("sinusoidal"):
        _require(model.width % 2 == 0, "model.width", model.width, "even, for sinusoidal positions")
    if model.positions == "sinusoidal_marian":
        _require(model.width >= 4, "model.width", model.width, "at least 4, for model.positions=sinusoidal_marian")
    if model.positions == "rotary":
        key_width = model.key_width or model.width // model.heads
        _require(key_width % 2 == 0, "model.key_width", key_width, "even, for rotary positions")
    if model.positions == "learned":
        longest = batch.max_length
        _require(
            model.max_positions >= longest, "model.max_positions", model.max_positions, f"at least batch.max_length={longest}"
        )


def differences(stored: Config, given: Config) -> tuple[list[str], list[str]]:
    """What differs between a run's config and the one given now, as lines `name: stored -> given`.

    Returns (what forbids to go on, what may change): the first changes the result, the second does not. More steps may be
    asked for, not fewer, and not where the learning rate's decay is laid out over them.

    >>> differences(Config(), Config(train=TrainConfig(steps=200_000, seed=1)))
    (['train.seed: 0 -> 1'], ['train.steps: 100000 -> 200000'])
    """
    forbidden, allowed = [], []
    old, new = _flatten(stored), _flatten(given)
    for name in old:
        if old[name] != new[name]:
            fine = name in _MAY_CHANGE
            if name == "train.steps":
                decays = given.optimizer.schedule == "cosine" and not given.optimizer.decay_steps
                fine = new[name] > old[name] and not decays
            (allowed if fine else forbidden).append(f"{name}: {old[name]!r} -> {new[name]!r}")
    return forbidden, allowed


def continued(stored: Config, given: Config) -> Config:
    """`given`, but for what a run keeps as it was begun, whatever is given when it goes on: where it was begun without
    `tokenizer.normalize` it stays so, as runs from before there was such a thing.

    >>> continued(Config(tokenizer=TokenizerConfig(normalize=False)), Config()).tokenizer.normalize
    False
    """
    normalize = given.tokenizer.normalize and stored.tokenizer.normalize
    return dataclasses.replace(given, tokenizer=dataclasses.replace(given.tokenizer, normalize=normalize))


def unknown_key(key: str, where: str = "config") -> UserError:
    """The error for a key, `model.num_layer` or `num_layer` alone, that no config has; it names the nearest.

    >>> unknown_key("model.num_layer")
    UserError("config: unknown key 'model.num_layer' (did you mean model.num_layers?)")
    """
    near = full_name(key, cutoff=0.6)
    return UserError(f"{where}: unknown key {key!r}" + (f" (did you mean {near}?)" if near else ""))


def full_name(key: str, cutoff: float = 1.0) -> str:
    """The key, `model.num_layers`, of a field's name alone, `num_layers`, or of one that is as alike as `cutoff` (difflib's
    ratio), or the name of a part; empty if there is none.

    >>> full_name("num_layers"), full_name("num_layer"), full_name("modle", 0.6)
    ('model.num_layers', '', 'model')
    """
    keys = {name if "." in key else name.partition(".")[2]: name for name in reversed(_flatten(Config()))}
    parts = {} if "." in key else {part: part for part in get_type_hints(Config)}
    for names in (keys if key in keys else parts, keys):
        near = difflib.get_close_matches(key, names, n=1, cutoff=cutoff)
        if near:
            return names[near[0]]
    return ""


def is_config_class(kind: type | str) -> bool:
    """Is this the `Config` or the class of one of its parts, or the name of one?"""
    classes = [Config, *get_type_hints(Config).values()]
    return kind in classes or kind in [each.__name__ for each in classes]


def to_json(config: Config) -> str:
    """What `config.json` holds: an object for each part, with a value for each field."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str, name: str = "config") -> Config:
    """The inverse of `to_json`; `tokenizer.normalize` is false where it is not there, as in runs from before it was.
    Raises UserError with `name` and the key on unknown keys, wrong types, impossible values."""
    try:
        data = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and thousands of brackets
        raise UserError(f"{name}: not JSON ({error})") from None
    train, tokenizer = (data.get(part) if isinstance(data, dict) else None for part in ("train", "tokenizer"))
    if isinstance(train, dict) and "evaluate_bleu" in train:  # runs from before there was a choice
        train["metric"] = "bleu" if train.pop("evaluate_bleu") else "loss"
    if isinstance(tokenizer, dict):  # runs from before text was normalised
        tokenizer.setdefault("normalize", False)
    config = _build(Config, data, name)
    try:
        return validate(config)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def override(config: Config, key: str, text: str) -> None:
    """Sets `key` (`model.num_layers`) to the value that `text` spells in the field's type.

    Raises UserError for an unknown key, naming the nearest, and for text that is not of the type.

    >>> config = Config()
    >>> override(config, "model.num_layers", "2")
    >>> config.model.num_layers
    2
    """
    part, _, name = key.partition(".")
    parts = get_type_hints(Config)
    types = get_type_hints(parts[part]) if part in parts else {}
    if name not in types:
        raise unknown_key(key)
    kind = types[name]
    words = {"true": True, "false": False}
    try:
        value = words[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise UserError(f"config: {key}={text!r} should be {expected}") from None
    setattr(getattr(config, part), name, value)


def _build(cls: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected an object with keys, found {data!r}")
    types = get_type_hints(cls)
    for key in data:
        if key not in types:
            raise UserError(f"{where}: unknown key {key!r}{_nearest(key, types)}")
    values = {}
    for key, value in data.items():
        kind = types[key]
        if dataclasses.is_dataclass(kind):
            values[key] = _build(kind, value, f"{where}: {key}")
        elif kind is float and type(value) is int:
            values[key] = float(value) if abs(value) < 10**300 else math.inf * (1 if value > 0 else -1)
        elif type(value) is not kind:
            raise UserError(f"{where}: {key} should be of type {kind.__name__}, found {value!r}")
        else:
            values[key] = value
    return cls(**values)


def _flatten(config: Config) -> dict[str, Any]:
    return {f"{part}.{key}": value for part, values in dataclasses.asdict(config).items() for key, value in values.items()}


def _require(true: bool, name: str, value: Any, expected: str) -> None:
    if not true:
        raise UserError(f"config: {name}={value!r} should be {expected}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _nearest(key: Any, candidates: Any) -> str:
    found = difflib.get_close_matches(str(key), list(candidates), n=1)
    return f" (did you mean {found[0]}?)" if found else ""
