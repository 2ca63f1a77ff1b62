"""Reads the folder of a Hugging Face `MarianMTModel` and `MarianTokenizer` without their library, and that of a
`PegasusForConditionalGeneration` with such a tokenizer, as `hugging_face_writer` writes it."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError, pip_install
from transformer_jax.interop.foreign_model import (
    LARGEST_SIZE,
    Foreign,
    kind_of_sinusoids,
    languages_of,
    read_json,
    read_sentencepiece,
    require_rows,
    require_supported,
    rows_of,
)
from transformer_jax.interop.hugging_face_tokens import added_tokens, special_ids
from transformer_jax.interop.marian_weights import HUGGING_FACE, to_parameters
from transformer_jax.interop.safetensors import read_safetensors
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["EPSILON", "MAX_POSITIONS", "POSITION_TABLES", "read_hugging_face"]

EPSILON = 1e-5  # of their layer norms; no option changes it
# Hugging Face's names -> this project's.
_ACTIVATIONS = {
    "swish": "silu",
    "silu": "silu",
    "relu": "relu",
    "gelu": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
}
_NORMS = {"marian": "post", "pegasus": "pre"}  # the value of `model.norm` for each model_type
# The only value of each option that both systems compute. Older versions of their library write more options than newer ones.
_ONLY = {
    "is_encoder_decoder": True,
    "static_position_embeddings": True,
    "normalize_embedding": False,
    "add_bias_logits": False,
}
# Search options that DecodeConfig lacks, and the value of each that changes nothing. Sampling is not taken over.
_WITHOUT_FIELD = {
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
POSITION_TABLES = "model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"  # names of weights
MAX_POSITIONS = 512  # of an imported model at most, of an exported one at least


def read_hugging_face(folder: Path) -> Foreign:
    """The model in `folder`. Raises UserError for missing or damaged files, and for options that no model here
    supports, naming all of them."""
    path = folder / "config.json"
    options = read_json(path, "a MarianMTModel's config")
    generation = folder / "generation_config.json"
    search = options | (read_json(generation, "the search's options") if generation.exists() else {})
    tokenizer_config = folder / "tokenizer_config.json"
    tokenizer_options = read_json(tokenizer_config, "the tokenizer's options") if tokenizer_config.exists() else {}
    model = _model(options, tokenizer_options, path)
    where, weights = _read_weights(folder)
    model, weights = _without_copies(model, weights, where)
    size = options["vocab_size"]
    require_rows(size, weights, path, "vocab_size")
    vocabulary = read_json(folder / "vocab.json", "the number of each piece")
    pieces = rows_of(vocabulary, size, folder / "vocab.json")
    ids = special_ids(search, tokenizer_options, vocabulary, size, generation if generation.exists() else path)
    added, token_notes = added_tokens(folder, tokenizer_options, pieces, {*ids.values()})
    decode, search_notes = _decode(search, ids)
    models = read_sentencepiece(folder, "source"), read_sentencepiece(folder, "target")
    return Foreign(
        model=model,
        parameters=partial(to_parameters, weights, model, size, HUGGING_FACE, str(where)),
        tokenizer=lambda to: Tokenizer.of_models(*models, pieces, ids, to, added),
        vocab_size=size,
        longest=min(MAX_POSITIONS, options.get("max_position_embeddings", 1024)),
        decode=decode,
        languages=languages_of(tokenizer_options.get("source_lang"), tokenizer_options.get("target_lang")),
        notes=token_notes + search_notes,
    )


def _model(options: dict[str, Any], tokenizer_options: dict[str, Any], path: Path) -> ModelConfig:
    norm = _NORMS.get(str(options.get("model_type")))
    wrong = [] if norm else [f"model_type: {options.get('model_type')!r} (expected one of {', '.join(_NORMS)})"]
    before = {"normalize_before": norm == "pre", "add_final_layer_norm": norm == "pre"} if norm else {}
    wrong += [
        f"{name}: {options.get(name)!r} (expected {only!r})"
        for name, only in (_ONLY | before).items()
        if options.get(name, only) != only
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
    if options.get("decoder_vocab_size") not in (None, options.get("vocab_size")) or tokenizer_options.get("separate_vocabs"):
        wrong.append("a vocabulary for the source and another for the target (expected one for both)")
    activation = options.get("activation_function", "gelu")
    if activation not in _ACTIVATIONS:
        wrong.append(f"activation_function: {activation!r} (expected one of {', '.join(_ACTIVATIONS)})")
    shared, tied = options.get("share_encoder_decoder_embeddings", True), options.get("tie_word_embeddings", True)
    if shared and not tied:
        wrong.append("tie_word_embeddings: False with share_encoder_decoder_embeddings (expected both, or to share none)")
    if norm == "pre" and not tied:
        wrong.append("tie_word_embeddings: False (expected True)")
    require_supported(wrong, path)
    return ModelConfig(
        norm=norm,
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
            f"{pickled}: only torch reads it; {pip_install('torch')}, or have a model.safetensors made of it elsewhere"
        ) from None
    try:
        tensors = torch.load(pickled, map_location="cpu", weights_only=True)  # unpickles nothing but tensors
        return pickled, {name: tensor.float().numpy() for name, tensor in tensors.items()}
    except Exception as error:  # torch passes on every exception of unpickling
        reason = str(error).partition("\n")[0]
        raise UserError(f"{pickled}: not a whole file of tensors ({reason}); download it again") from None


def _without_copies(
    model: ModelConfig, weights: dict[str, np.ndarray], where: Path
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Removes the tables that are tied to another one and those of positions, which determine `model.positions` and
    `first_position`."""
    tables = [weights[name] for name in POSITION_TABLES if name in weights]
    kinds = [kind_of_sinusoids(table, model.width) for table in tables]
    if None in kinds or len(set(kinds)) > 1:
        raise UserError(
            f"{where}: {' and '.join(POSITION_TABLES)} are no sinusoids that we know; learned positions are not supported"
        )
    copies = {*POSITION_TABLES}
    if model.tied_embeddings == "all":
        copies |= {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}
    else:
        copies.add("model.shared.weight")
    if model.tied_embeddings != "none":
        copies.add("lm_head.weight")
    kept = {name: weight for name, weight in weights.items() if name not in copies}
    model.output_bias = "final_logits_bias" in kept
    if kinds:
        model.positions, model.first_position = kinds[0]
    return model, kept


def _decode(search: dict[str, Any], ids: dict[str, int]) -> tuple[dict[str, Any], list[str]]:
    """Fields of DecodeConfig, and notes about search options that have no field."""
    decode, notes = {}, []
    if type(search.get("num_beams")) is int and search["num_beams"] > 0:
        decode["beam"] = search["num_beams"]
    penalty = search.get("length_penalty")
    if isinstance(penalty, int | float) and penalty >= 0:
        decode |= {"length_penalty": float(penalty), "length_normalization": "power"}
    if type(search.get("no_repeat_ngram_size")) is int and search["no_repeat_ngram_size"] >= 0:
        decode["no_repeat_ngram"] = search["no_repeat_ngram_size"]
    never = {ids["pad_id"], ids["bos_id"], ids["unknown_id"], ids["decoder_start_id"]} - {ids["eos_id"]}
    bad_words = search.get("bad_words_ids") or []
    rest = {
        "bad_words_ids": [word for word in bad_words if not (isinstance(word, list) and len(word) == 1 and word[0] in never)]
        or None,
        "forced_eos_token_id": search.get("forced_eos_token_id")
        if search.get("forced_eos_token_id") != ids["eos_id"]
        else None,
        "eos_token_id": search["eos_token_id"] if isinstance(search.get("eos_token_id"), list) else None,
    }
    rest |= {name: search.get(name) for name, neutral in _WITHOUT_FIELD.items() if search.get(name) not in (None, neutral)}
    left = [f"{name}: {value!r:.60}" for name, value in rest.items() if value is not None]
    return decode, notes + ([f"of their search not taken over: {', '.join(left)}"] if left else [])
