"""What makes a config possible: the type and limits of each field, as its annotation has them, and what fields say together."""

import dataclasses
import math
from typing import Any

from transformer_jax.config.fields import OnlyFor, OnlyWith, annotations, choices, limits, record, value_type
from transformer_jax.config.keys import as_dict, key_annotations, key_values, nearest
from transformer_jax.config.search_options import SearchOptions
from transformer_jax.config.sections import BatchConfig, Config, ModelConfig, OptimizerConfig, ParallelConfig, TrainConfig
from transformer_jax.config.text_filters import parse_filters
from transformer_jax.errors import UserError

__all__ = ["from_dict", "validate"]


def validate(config: Config) -> Config:
    """Returns `config` unchanged, or raises UserError naming the first field whose type or value cannot be.

    >>> validate(Config(model=ModelConfig(heads=7)))
    Traceback (most recent call last):
    transformer_jax.errors.UserError: config: model.heads=7 should be a divisor of model.width=512
    """
    from_dict(Config, as_dict(config), "config")
    for key, value in key_values(config).items():
        _validate_field(key, value, key_annotations()[key])
    try:
        parse_filters(config.data.filters)
    except UserError as error:
        raise UserError(f"config: data.filters={config.data.filters!r}: {error}") from None
    alpha, algorithm = config.tokenizer.alpha, config.tokenizer.algorithm
    is_chance = algorithm != "bpe" or alpha <= 1
    _require(is_chance, "tokenizer.alpha", alpha, "at most 1 with tokenizer.algorithm=bpe: a chance")
    _validate_search(config.decode)
    _validate_model(config.model, config.batch)
    _validate_kernel(config.model, config.parallel)
    reduced, expected = config.parallel.reduce_dtype, "float32 with parallel.mode=sharded, where XLA adds up as it splits"
    _require(config.parallel.mode == "pmap" or reduced == "float32", "parallel.reduce_dtype", reduced, expected)
    _validate_vocabulary(config)
    _validate_optimizer(config.optimizer, config.train.ema_decay)
    _validate_batch(config.batch, config.train.accumulation)
    _validate_consistency(config.train, config.model)
    expected = "none or layers with model.family=lstm: what its steps keep is little but products"
    may_recompute = config.model.family != "lstm" or config.train.remat != "products"
    _require(may_recompute, "train.remat", config.train.remat, expected)
    _validate_adapters(config.train)
    for name in ("init_tokenizer", "init_model"):
        value, expected = getattr(config.train, name), "same without train.init_from: there is no other run"
        _require(config.train.init_from != "" or value == "same", f"train.{name}", value, expected)
    return config


def from_dict(cls: type, data: Any, where: str) -> Any:
    """An instance of a dataclass with the values of `data`, and of the dataclasses in it. Raises UserError for a key or a type
    that is wrong; `where` begins its message."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected an object with keys, found {data!r}")
    types = {name: value_type(annotation) for name, annotation in annotations(cls).items()}
    for key in data:
        if key not in types:
            raise UserError(f"{where}: unknown key {key!r}{nearest(key, types)}")
    values = {}
    for key, value in data.items():
        kind = types[key]
        if dataclasses.is_dataclass(kind):
            values[key] = from_dict(kind, value, f"{where}: {key}")
        elif kind is float and type(value) is int:
            values[key] = float(value) if abs(value) < 10**300 else math.inf * (1 if value > 0 else -1)
        elif type(value) is not kind:
            raise UserError(f"{where}: {key} should be of type {kind.__name__}, found {value!r}")
        else:
            values[key] = value
    return cls(**values)


def _validate_field(key: str, value: Any, annotation: Any) -> None:
    names = choices(annotation)
    if names:
        _require(value in names, key, value, f"one of {', '.join(names)}{nearest(value, names)}")
    for limit in limits(annotation):
        _require(limit.allows(value), key, value, limit)


def _validate_search(decode: SearchOptions) -> None:
    if decode.mbr:
        _require(decode.nbest <= decode.mbr, "decode.nbest", decode.nbest, f"at most decode.mbr={decode.mbr}")
        expected = "0 with decode.mbr_from=beam: of a beam nothing is drawn"
        _require(not decode.temperature or decode.mbr_from != "beam", "decode.temperature", decode.temperature, expected)
    else:
        expected = f"at most decode.beam={decode.beam}, or with decode.temperature above 0"
        _require(decode.temperature > 0 or decode.nbest <= decode.beam, "decode.nbest", decode.nbest, expected)
        for name in ("mbr_metric", "mbr_from"):
            value, default = getattr(decode, name), getattr(SearchOptions(), name)
            _require(value == default, f"decode.{name}", value, "left out with decode.mbr=0: there are no candidates")
    expected = "0 with decode.temperature=0: only what is drawn has a least probability; set decode.temperature, such as 1"
    _require(decode.draws or not decode.epsilon, "decode.epsilon", decode.epsilon, expected)
    may_cover = not decode.coverage_penalty or (not decode.draws and (decode.beam > 1 or decode.mbr > 0))
    expected = "0 with decode.beam=1, with decode.temperature and with samples of decode.mbr: nothing is chosen by scores there"
    _require(may_cover, "decode.coverage_penalty", decode.coverage_penalty, expected)


def _validate_model(model: ModelConfig, batch: BatchConfig) -> None:
    for name, annotation in annotations(ModelConfig).items():
        only = record(annotation, OnlyFor)
        value, default = getattr(model, name), getattr(ModelConfig(), name)
        is_used = only is None or only.family == model.family
        expected = f"left out: model.family={model.family} has no use for it"
        _require(is_used or value == default, f"model.{name}", value, expected)
    if model.family == "lstm":
        _validate_lstm(model, batch)
    else:
        _validate_transformer(model, batch)


def _validate_kernel(model: ModelConfig, parallel: ParallelConfig) -> None:
    kernel = model.attention_kernel
    if kernel == "plain":
        return
    has, dropout = f"with model.attention_kernel={kernel}", model.attention_dropout
    _require(dropout == 0, "model.attention_dropout", dropout, f"0 {has}, which has no dropout of attention weights")
    expected = f"auto or bfloat16 {has}, whose products round float32"
    _require(model.compute_dtype != "float32", "model.compute_dtype", model.compute_dtype, expected)
    _require(parallel.mode == "pmap", "parallel.mode", parallel.mode, f"pmap {has}, which XLA does not split over devices")


def _validate_vocabulary(config: Config) -> None:
    size, tied = config.model.source_vocab_size, config.model.tied_embeddings
    _require(not size or tied != "all", "model.source_vocab_size", size, "0 with model.tied_embeddings=all: there is one table")
    is_imported = config.train.init_tokenizer == "same" and (bool(config.train.init_from) or not config.data.train)
    expected = "0: tokenizers that are trained here have one vocabulary; only a run that begins with an imported one "
    _require(not size or is_imported, "model.source_vocab_size", size, f"{expected}(train.init_from) may have two")


def _validate_lstm(model: ModelConfig, batch: BatchConfig) -> None:
    _require(batch.kind != "packed", "batch.kind", batch.kind, "bucketed: an LSTM would run on from sentence to sentence")
    if model.direction == "both":
        _require(model.width % 2 == 0, "model.width", model.width, "even: each direction of the encoder has half of it")
    if model.attention == "none":
        _require(not model.input_feeding, "model.input_feeding", True, "false where model.attention is none")


def _validate_transformer(model: ModelConfig, batch: BatchConfig) -> None:
    if not model.key_width:
        _require(model.width % model.heads == 0, "model.heads", model.heads, f"a divisor of model.width={model.width}")
    if model.positions.startswith("sinusoidal"):
        _require(model.width % 2 == 0, "model.width", model.width, "even, for sinusoidal positions")
    else:
        expected = f"0 with model.positions={model.positions}: only sinusoids are counted from another number"
        _require(model.first_position == 0, "model.first_position", model.first_position, expected)
    if model.positions == "sinusoidal_marian":
        _require(model.width >= 4, "model.width", model.width, "at least 4, for model.positions=sinusoidal_marian")
    if model.positions == "rotary":
        width = model.key_head_width
        _require(width % 2 == 0, "model.key_width", width, "even, for rotary positions")
    if model.positions == "learned":
        expected = f"at least batch.max_length={batch.max_length}"
        _require(model.max_positions >= batch.max_length, "model.max_positions", model.max_positions, expected)


def _validate_optimizer(optimizer: OptimizerConfig, ema_decay: float) -> None:
    name = optimizer.name
    for field, annotation in annotations(OptimizerConfig).items():
        only = record(annotation, OnlyWith)
        value, default = getattr(optimizer, field), getattr(OptimizerConfig(), field)
        is_used = only is None or name in only.names
        _require(is_used or value == default, f"optimizer.{field}", value, f"left out: optimizer.name={name} has no use for it")
    if name == "schedule_free":
        expected = "constant with optimizer.name=schedule_free: its average takes the place of a falling learning rate"
        _require(optimizer.schedule == "constant", "optimizer.schedule", optimizer.schedule, expected)
        expected = "0 with optimizer.name=schedule_free, which has an average of its own"
        _require(ema_decay == 0, "train.ema_decay", ema_decay, expected)
        expected = "more than 0 with optimizer.name=schedule_free"
        _require(optimizer.beta1 > 0, "optimizer.beta1", optimizer.beta1, expected)


def _validate_batch(batch: BatchConfig, accumulation: int) -> None:
    multiple, length = batch.row_multiple, batch.packed_length
    if batch.kind == "packed":
        _require(batch.max_length <= length, "batch.max_length", batch.max_length, f"at most batch.packed_length={length}")
        smallest = multiple * length
        has_room = batch.tokens == 0 or batch.tokens >= smallest
        _require(has_room, "batch.tokens", batch.tokens, f"at least row_multiple * packed_length = {smallest}")
    expected = "left out unless batch.tokens is 0: nothing else looks for a batch that fits"
    _require(batch.tokens == 0 or batch.memory == 0, "batch.memory", batch.memory, expected)
    expected = f"a divisor of batch.row_multiple={multiple}"
    _require(multiple % accumulation == 0, "train.accumulation", accumulation, expected)


def _validate_consistency(train: TrainConfig, model: ModelConfig) -> None:
    kind, default = train.consistency, TrainConfig()
    expected = f"left out: train.consistency={kind} has no use for it"
    has_weight, may_cut = kind != "none", kind == "simcut"
    is_default = train.consistency_weight == default.consistency_weight
    _require(has_weight or is_default, "train.consistency_weight", train.consistency_weight, expected)
    _require(may_cut or train.cut == default.cut, "train.cut", train.cut, expected)
    # Else the two passes were one.
    drops = any((model.dropout, model.attention_dropout, model.activation_dropout))
    expected = "none where model.dropout and all others are 0: both passes would be the same; set model.dropout"
    _require(kind != "rdrop" or drops, "train.consistency", kind, expected)
    _require(kind != "simcut" or drops or train.cut > 0, "train.cut", train.cut, "more than 0 where no dropout is on")


def _validate_adapters(train: TrainConfig) -> None:
    if not train.lora_rank:
        for name in ("lora_alpha", "lora_on"):
            value, default = getattr(train, name), getattr(TrainConfig(), name)
            _require(value == default, f"train.{name}", value, "left out without train.lora_rank: there are no adapters")
        return
    expected = "0 without train.init_from: the parameters beside adapters do not change, and fresh ones know nothing"
    _require(train.init_from != "", "train.lora_rank", train.lora_rank, expected)
    _require(train.freeze == "", "train.freeze", train.freeze, "left out with train.lora_rank: nothing but adapters trains")
    for name in ("init_tokenizer", "init_model"):
        value = getattr(train, name)
        _require(value == "same", f"train.{name}", value, "same with train.lora_rank: what is new would not train")


def _require(is_true: bool, key: str, value: Any, expected: Any) -> None:
    if not is_true:
        raise UserError(f"config: {key}={value!r} should be {expected}")
