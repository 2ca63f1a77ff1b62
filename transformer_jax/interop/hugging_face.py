"""The folder of Hugging Face's `MarianMTModel` and `MarianTokenizer`, read and written without their library or torch."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from transformer_jax.config import Config, ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.interop.foreign import (
    LARGEST_SIZE,
    Foreign,
    languages_of,
    length_penalty_note,
    read_json,
    read_sentencepiece,
    require_rows,
    require_supported,
    rows_of,
)
from transformer_jax.interop.marian_weights import HUGGING_FACE
from transformer_jax.interop.safetensors import read_safetensors, write_safetensors
from transformer_jax.models.layers import sinusoids
from transformer_jax.tokenization.tokenizer import Tokenizer

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
# Options of their search that ours has not, and the value of each that changes nothing. Ours draws only where it is asked to.
_NOT_OURS = {
    "max_length": None,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "forced_bos_token_id": None,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "force_words_ids": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
    "renormalize_logits": False,
    "num_return_sequences": 1,
}
_POSITIONS = "model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"
_LONGEST = 512  # positions, at least, of a model that we write


def read_hugging_face(folder: Path) -> Foreign:
    """The MarianMTModel in `folder`. Raises UserError for what is missing or damaged, and naming all options that no model of
    ours has."""
    path = folder / "config.json"
    options = read_json(path, "a MarianMTModel's config")
    generation = folder / "generation_config.json"
    search = options | (read_json(generation, "the search's options") if generation.exists() else {})
    described = folder / "tokenizer_config.json"
    of_tokenizer = read_json(described, "the tokenizer's options") if described.exists() else {}
    model = _model(options, of_tokenizer, path)
    where, weights = _read_weights(folder)
    model, weights = _without_copies(model, weights, where)
    size = options["vocab_size"]
    require_rows(size, weights, path, "vocab_size")
    vocabulary = read_json(folder / "vocab.json", "the number of each piece")
    pieces = rows_of(vocabulary, size, folder / "vocab.json")
    ids = _special_ids(search, of_tokenizer, vocabulary, size, generation if generation.exists() else path)
    added, notes = _added_tokens(folder, of_tokenizer, pieces, {*ids.values()})
    decode, of_search = _decode(search, ids)
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
        notes=notes + of_search,
        added=added,
        rows_are_pieces=False,
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
        if type(options.get(name)) is not int or not 0 < options[name] <= LARGEST_SIZE
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


def _special_ids(
    search: dict[str, Any], of_tokenizer: dict[str, Any], vocabulary: dict[str, Any], size: int, where: Path
) -> dict[str, int]:
    """`search` are the options of config.json, and over them those of generation_config.json, which their search follows."""
    eos, unknown = (_piece(of_tokenizer.get(name), piece) for name, piece in (("eos_token", "</s>"), ("unk_token", "<unk>")))
    missing = [piece for piece in (eos, unknown) if piece not in vocabulary]
    if missing:
        raise UserError(f"{where.parent / 'vocab.json'}: has no {' and no '.join(missing)}; download the whole model again")
    ends = search.get("eos_token_id", vocabulary[eos])
    if vocabulary[eos] not in (ends if isinstance(ends, list) else [ends]):
        found = f"eos_token_id is {ends!r}, but {eos} has the number {vocabulary[eos]} in vocab.json"
        raise UserError(f"{where}: {found}; expected the same")
    pad, start = search.get("pad_token_id"), search.get("decoder_start_token_id")
    ids = {"pad_id": pad, "decoder_start_id": pad if start is None else start}
    wrong = [name for name, value in ids.items() if type(value) is not int or not 0 <= value < size]
    if wrong:
        raise UserError(f"{where}: pad_token_id and decoder_start_token_id should be rows of the embedding")
    bos = search.get("bos_token_id")
    bos = bos if type(bos) is int and 0 <= bos < size else vocabulary[eos]
    return ids | {"eos_id": vocabulary[eos], "unknown_id": vocabulary[unknown], "bos_id": bos}


def _added_tokens(
    folder: Path, of_tokenizer: dict[str, Any], pieces: list[str | None], special: set[int]
) -> tuple[dict[int, bool], list[str]]:
    """What was added to the vocabulary after the model was trained: rows, and whether they are special, as their tokenizer
    reads them: `added_tokens_decoder` of tokenizer_config.json, or else added_tokens.json. Their names go into `pieces`."""
    listed, where = of_tokenizer.get("added_tokens_decoder"), folder / "tokenizer_config.json"
    if isinstance(listed, dict):
        tokens = [(row, token if isinstance(token, dict) else {"content": token}) for row, token in listed.items()]
    else:
        where = folder / "added_tokens.json"
        names = folder / "special_tokens_map.json"
        maps = [of_tokenizer, read_json(names, "the names of special tokens") if names.exists() else {}]
        lists = [each.get(key) for each in maps for key in ("additional_special_tokens", "extra_special_tokens")]
        extra = {_piece(token, "") for each in lists if isinstance(each, list) for token in each}
        given = read_json(where, "the rows of added tokens") if where.exists() else {}
        tokens = [(row, {"content": text, "special": text in extra}) for text, row in given.items()]
    added, without_row = {}, []
    for number, token in tokens:
        text, row = token.get("content"), int(number) if str(number).isdecimal() else -1
        if not isinstance(text, str) or not text or row < 0:
            raise UserError(f"{where}: {text!r} has the number {number!r}; expected a token and a row of the embedding")
        if row in special:
            continue
        if row >= len(pieces):
            without_row.append(text)
            continue
        if pieces[row] not in (None, text) or (pieces[row] is None and text in pieces):
            raise UserError(f"{where}: {text!r} has the number {row}, in vocab.json {pieces[row]!r}; expected the same")
        pieces[row], added[row] = text, bool(token.get("special"))
    if without_row:
        return added, [f"added tokens without a row in the embedding, which are read as text: {', '.join(without_row)}"]
    return added, []


def _piece(given: Any, default: str) -> str:
    """A special piece's spelling, which their tokenizer's config has as it is or as an object."""
    given = given.get("content") if isinstance(given, dict) else given
    return given if isinstance(given, str) else default


def _decode(search: dict[str, Any], ids: dict[str, int]) -> tuple[dict[str, Any], list[str]]:
    """Fields of DecodeConfig, and what of the search has no field."""
    decode, notes = {}, []
    if type(search.get("num_beams")) is int and search["num_beams"] > 0:
        decode["beam"] = search["num_beams"]
    penalty = search.get("length_penalty")
    if isinstance(penalty, int | float) and penalty >= 0:
        decode["length_penalty"] = float(penalty)
        notes += [length_penalty_note(penalty)] if penalty else []
    if type(search.get("no_repeat_ngram_size")) is int and search["no_repeat_ngram_size"] >= 0:
        decode["no_repeat_ngram"] = search["no_repeat_ngram_size"]
    never = {ids["pad_id"], ids["bos_id"], ids["unknown_id"], ids["decoder_start_id"]} - {ids["eos_id"]}
    given = search.get("bad_words_ids") or []
    rest = {
        "bad_words_ids": [word for word in given if not (isinstance(word, list) and len(word) == 1 and word[0] in never)]
        or None,
        "forced_eos_token_id": search.get("forced_eos_token_id")
        if search.get("forced_eos_token_id") != ids["eos_id"]
        else None,
        "eos_token_id": search["eos_token_id"] if isinstance(search.get("eos_token_id"), list) else None,
    }
    rest |= {name: search.get(name) for name, neutral in _NOT_OURS.items() if search.get(name) not in (None, neutral)}
    left = [f"{name}: {value!r:.60}" for name, value in rest.items() if value is not None]
    return decode, notes + ([f"of their search not taken over: {', '.join(left)}"] if left else [])


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
        "decoder_layers": model.decoder_depth,
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
    added = {tokenizer.pieces([row])[0]: row for row in tokenizer.added_pieces()}
    left_out = [text for text, row in added.items() if tokenizer.added_pieces()[row]]
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
        "vocab.json": {piece: row for piece, row in tokenizer.vocabulary().items() if piece not in added},
    }
    if added:
        contents["added_tokens.json"] = added
        contents["special_tokens_map.json"] = {
            "eos_token": eos,
            "unk_token": unknown,
            "pad_token": pad,
            "additional_special_tokens": left_out,
        }
    for name, content in contents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
