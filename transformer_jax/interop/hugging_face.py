"""The folder of Hugging Face's `MarianMTModel` and `MarianTokenizer`, read and written without their library or torch."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from transformer_jax.config import Config, ModelConfig
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.errors import UserError
from transformer_jax.interop.foreign import (
    Foreign,
    languages_of,
    length_penalty_note,
    read_json,
    read_sentencepiece,
    require_supported,
    rows_of,
)
from transformer_jax.interop.marian_weights import HUGGING_FACE
from transformer_jax.interop.safetensors import read_safetensors, write_safetensors
from transformer_jax.models.layers import sinusoids

__all__ = ["EPSILON", "read_hugging_face", "to_hugging_face", "unsupported", "write_hugging_face"]

EPSILON = 1e-5  # of their layer norm, which is no option
# Their activations that are ours. Ours is the GELU by tanh, their `gelu` the exact one.
_ACTIVATIONS = {"swish": "silu", "silu": "silu", "relu": "relu", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}
_THEIR_ACTIVATIONS = {"silu": "swish", "relu": "relu", "gelu": "gelu_new"}
# The only value of each option that their code computes, or ours; the older of their versions write some more than the newer.
_ONLY = {
    "model_type": "marian",
    "is_encoder_decoder": True,
    "static_position_embeddings": True,
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "add_bias_logits": False,
}
_POSITIONS = "model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"
_LONGEST = 512  # positions, at least, of a model that we write


def read_hugging_face(folder: Path) -> Foreign:
    """The MarianMTModel in `folder`. Raises UserError for what is missing or damaged, and naming all options that no model of
    ours has."""
    path = folder / "config.json"
    options = read_json(path, "a MarianMTModel's config")
    described = folder / "tokenizer_config.json"
    of_tokenizer = read_json(described, "the tokenizer's options") if described.exists() else {}
    model = _model(options, of_tokenizer, path)
    where, weights = _read_weights(folder)
    model, weights = _without_copies(model, weights, where)
    size = options["vocab_size"]
    vocabulary = read_json(folder / "vocab.json", "the number of each piece")
    pieces = rows_of(vocabulary, size, folder / "vocab.json")
    ids = _special_ids(options, of_tokenizer, vocabulary, folder)
    decode, notes = _decode(folder, options)
    return Foreign(
        model=model,
        weights=weights,
        naming=HUGGING_FACE,
        where=where,
        source_model=read_sentencepiece(folder, "source"),
        target_model=read_sentencepiece(folder, "target"),
        pieces=pieces,
        ids=ids,
        longest=min(_LONGEST, options.get("max_position_embeddings", 1024)),
        decode=decode,
        languages=languages_of(of_tokenizer.get("source_lang"), of_tokenizer.get("target_lang")),
        notes=notes,
    )


def _model(options: dict[str, Any], of_tokenizer: dict[str, Any], path: Path) -> ModelConfig:
    wrong = [
        f"{name}: {options.get(name)!r} (expected {only!r})"
        for name, only in _ONLY.items()
        if options.get(name, None if name == "model_type" else only) != only
    ]
    sizes = (
        "vocab_size d_model encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads encoder_ffn_dim "
        "decoder_ffn_dim"
    ).split()
    wrong += [
        f"{name}: {options.get(name)!r} (expected a whole number)"
        for name in sizes
        if type(options.get(name)) is not int or options[name] < 1
    ]
    for name in ("attention_heads", "ffn_dim"):
        values = [options.get(f"{side}_{name}") for side in ("encoder", "decoder")]
        if values[0] != values[1]:
            wrong.append(f"encoder_{name}: {values[0]!r}, decoder_{name}: {values[1]!r} (expected the same)")
    if options.get("decoder_vocab_size") not in (None, options.get("vocab_size")) or of_tokenizer.get("separate_vocabs"):
        wrong.append("a vocabulary for the source and another for the target (expected one for both)")
    activation = options.get("activation_function", "gelu")
    if activation not in _ACTIVATIONS:
        wrong.append(f"activation_function: {activation!r} (expected one of {', '.join(_ACTIVATIONS)})")
    shared, tied = options.get("share_encoder_decoder_embeddings", True), options.get("tie_word_embeddings", True)
    if shared and not tied:
        wrong.append("tie_word_embeddings: False with share_encoder_decoder_embeddings (expected both, or to share none)")
    require_supported(wrong, path)
    return ModelConfig(
        num_layers=options["encoder_layers"],
        decoder_layers=options["decoder_layers"],
        width=options["d_model"],
        feed_forward_width=options["encoder_ffn_dim"],
        heads=options["encoder_attention_heads"],
        tied_embeddings="all" if shared else "target" if tied else "none",
        output_bias=True,
        scale_embedding=bool(options.get("scale_embedding", False)),
        attention_bias=True,
        norm_epsilon=EPSILON,
        positions="sinusoidal_concatenated",
        activation=_ACTIVATIONS[activation],
        dropout=float(options.get("dropout", 0.1)),
        attention_dropout=float(options.get("attention_dropout", 0.0)),
        activation_dropout=float(options.get("activation_dropout", 0.0)),
    )


def _read_weights(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    path, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if path.exists() or not pickled.exists():
        if not path.exists():
            raise UserError(f"{folder}: has neither model.safetensors nor pytorch_model.bin; download the whole model")
        return path, read_safetensors(path)
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{pickled}: only torch reads it; pip install torch, or have a model.safetensors made of it elsewhere"
        ) from None
    try:
        # Nothing but tensors is unpickled.
        found = torch.load(pickled, map_location="cpu", weights_only=True)
        return pickled, {name: tensor.float().numpy() for name, tensor in found.items()}
    except Exception as error:  # torch raises whatever unpickling does
        reason = str(error).partition("\n")[0]
        raise UserError(f"{pickled}: not a whole file of tensors ({reason}); download it again") from None


def _without_copies(
    model: ModelConfig, weights: dict[str, np.ndarray], where: Path
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Without the tables that are tied to another, and without those of positions, which tell what `model.positions` is."""
    tables = [weights[name] for name in _POSITIONS if name in weights]
    kinds = [_kind_of(table, model.width) for table in tables]
    if None in kinds or len(set(kinds)) > 1:
        raise UserError(
            f"{where}: {' and '.join(_POSITIONS)} are no sinusoids that we know; learned positions are not supported"
        )
    copies = {*_POSITIONS}
    if model.tied_embeddings == "all":
        copies |= {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}
    else:
        copies.add("model.shared.weight")
    if model.tied_embeddings != "none":
        copies.add("lm_head.weight")
    kept = {name: weight for name, weight in weights.items() if name not in copies}
    model.output_bias = "final_logits_bias" in kept
    model.positions = kinds[0] if kinds else model.positions
    return model, kept


def _kind_of(table: np.ndarray, width: int) -> str | None:
    for kind in ("sinusoidal_concatenated", "sinusoidal", "sinusoidal_marian"):
        expected = np.asarray(sinusoids(jnp.arange(len(table)), width, kind))
        if table.shape == expected.shape and np.allclose(table.astype(np.float32), expected, atol=2e-3):  # perhaps in 16 bits
            return kind
    return None


def _special_ids(options: dict[str, Any], of_tokenizer: dict[str, Any], vocabulary: dict[str, Any], folder: Path) -> dict:
    eos, unknown = (_piece(of_tokenizer.get(name), piece) for name, piece in (("eos_token", "</s>"), ("unk_token", "<unk>")))
    missing = [piece for piece in (eos, unknown) if piece not in vocabulary]
    if missing:
        raise UserError(f"{folder / 'vocab.json'}: has no {' and no '.join(missing)}; download the whole model again")
    if options.get("eos_token_id", vocabulary[eos]) != vocabulary[eos]:
        found = f"eos_token_id is {options['eos_token_id']!r}, but {eos} has the number {vocabulary[eos]} in vocab.json"
        raise UserError(f"{folder / 'config.json'}: {found}; expected the same")
    pad = options.get("pad_token_id")
    ids = {"pad_id": pad, "decoder_start_id": options.get("decoder_start_token_id", pad)}
    wrong = [name for name, value in ids.items() if type(value) is not int or not 0 <= value < options["vocab_size"]]
    if wrong:
        raise UserError(f"{folder / 'config.json'}: pad_token_id and decoder_start_token_id should be rows of the embedding")
    bos = options.get("bos_token_id")
    bos = bos if type(bos) is int and 0 <= bos < options["vocab_size"] else vocabulary[eos]
    return ids | {"eos_id": vocabulary[eos], "unknown_id": vocabulary[unknown], "bos_id": bos}


def _piece(given: Any, default: str) -> str:
    """A special piece's spelling, which their tokenizer's config has as it is or as an object."""
    given = given.get("content") if isinstance(given, dict) else given
    return given if isinstance(given, str) else default


def _decode(folder: Path, options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    path = folder / "generation_config.json"
    search = options | (read_json(path, "the search's options") if path.exists() else {})
    decode, notes = {}, []
    if type(search.get("num_beams")) is int and search["num_beams"] > 0:
        decode["beam"] = search["num_beams"]
    penalty = search.get("length_penalty")
    if isinstance(penalty, int | float) and penalty >= 0:
        decode["length_penalty"] = float(penalty)
        notes += [length_penalty_note(penalty)] if penalty else []
    if type(search.get("no_repeat_ngram_size")) is int:
        decode["no_repeat_ngram"] = search["no_repeat_ngram_size"]
    return decode, notes


def unsupported(model: ModelConfig, tokenizer: Tokenizer) -> list[str]:
    """What of a model of ours no MarianMTModel has, each as FIELD=VALUE; nothing if there is one like it."""
    if model.family != "transformer":
        return [f"model.family={model.family}"]
    width = model.width // model.heads
    possible = {
        "norm": ("post",),
        "positions": ("sinusoidal", "sinusoidal_concatenated", "sinusoidal_marian"),
        "activation": tuple(_THEIR_ACTIVATIONS),
        "key_width": (0, width),
        "value_width": (0, width),
    }
    wrong = [f"model.{name}={getattr(model, name)}" for name, values in possible.items() if getattr(model, name) not in values]
    if tokenizer.source_vocab_size != tokenizer.vocab_size:
        wrong.append(f"{tokenizer.source_vocab_size} pieces of the source, {tokenizer.vocab_size} of the target")
    return wrong


def to_hugging_face(
    weights: dict[str, np.ndarray], config: Config, tokenizer: Tokenizer
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(config.json, all that model.safetensors holds) of a model whose weights have Hugging Face's names already.

    Positions that are not those that their code makes are among the weights, and are then read like these.
    """
    model, positions = config.model, max(_LONGEST, config.batch.max_length)
    if model.positions != "sinusoidal_concatenated":
        table = np.array(sinusoids(jnp.arange(positions), model.width, model.positions))
        weights = weights | dict.fromkeys(_POSITIONS, table)
    options = {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "is_encoder_decoder": True,
        "torch_dtype": "float32",
        "vocab_size": tokenizer.vocab_size,
        "decoder_vocab_size": tokenizer.vocab_size,
        "d_model": model.width,
        "encoder_layers": model.num_layers,
        "decoder_layers": model.decoder_layers or model.num_layers,
        "encoder_attention_heads": model.heads,
        "decoder_attention_heads": model.heads,
        "encoder_ffn_dim": model.feed_forward_width,
        "decoder_ffn_dim": model.feed_forward_width,
        "activation_function": _THEIR_ACTIVATIONS[model.activation],
        "max_position_embeddings": positions,
        "scale_embedding": model.scale_embedding,
        "share_encoder_decoder_embeddings": model.tied_embeddings == "all",
        "tie_word_embeddings": model.tied_embeddings != "none",
        "dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
        "activation_dropout": model.activation_dropout,
        "bos_token_id": None if tokenizer.bos_id == tokenizer.eos_id else tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "decoder_start_token_id": tokenizer.decoder_start_id,
        "forced_eos_token_id": tokenizer.eos_id,
    }
    return options, weights


def write_hugging_face(folder: Path, weights: dict[str, np.ndarray], config: Config, tokenizer: Tokenizer) -> None:
    """Writes all that `from_pretrained` of MarianMTModel and MarianTokenizer reads to `folder`."""
    options, weights = to_hugging_face(weights, config, tokenizer)
    special = "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id"
    never = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.unknown_id, tokenizer.decoder_start_id} - {tokenizer.eos_id}
    longest = options["max_position_embeddings"]
    search = {name: options[name] for name in special} | {
        "max_length": longest,
        "num_beams": config.decode.beam,
        "length_penalty": config.decode.length_penalty,
        "bad_words_ids": [[row] for row in sorted(never)],
    }
    eos, unknown, pad = tokenizer.pieces([tokenizer.eos_id, tokenizer.unknown_id, tokenizer.pad_id])
    of_tokenizer = {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": config.data.source_language,
        "target_lang": config.data.target_language,
        "eos_token": eos,
        "unk_token": unknown,
        "pad_token": pad,
        "model_max_length": longest,
        "separate_vocabs": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", weights)
    source, target = tokenizer.models()
    (folder / "source.spm").write_bytes(source)
    (folder / "target.spm").write_bytes(target)
    contents = {
        "config.json": options,
        "generation_config.json": search,
        "tokenizer_config.json": of_tokenizer,
        "vocab.json": tokenizer.vocabulary(),
    }
    for name, content in contents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
