"""Writes a folder that Hugging Face's `MarianMTModel` or `PegasusForConditionalGeneration`, and `MarianTokenizer`, load,
without their library or torch."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from transformer_jax.config import Config, ModelConfig
from transformer_jax.interop.hugging_face_reader import MAX_POSITIONS, POSITION_TABLES
from transformer_jax.interop.safetensors import write_safetensors
from transformer_jax.models.layers import sinusoids
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["class_of", "remedies", "to_hugging_face", "unsupported", "write_hugging_face"]

# The class for each value of `model.norm`, and its name in config.json. Pegasus is Marian's Transformer with a norm before each
# sublayer and one after each stack.
_CLASSES = {"post": ("MarianMTModel", "marian"), "pre": ("PegasusForConditionalGeneration", "pegasus")}
# This project's names -> Hugging Face's.
_ACTIVATIONS = {"silu": "swish", "relu": "relu", "gelu": "gelu_new", "gelu_exact": "gelu"}


def class_of(model: ModelConfig) -> str:
    """The name of Hugging Face's class for a Transformer."""
    return _CLASSES[model.norm][0]


def unsupported(model: ModelConfig, tokenizer: Tokenizer) -> list[str]:
    """The properties of a model that `class_of` it does not have, each as FIELD=VALUE; empty if it can represent the model."""
    wrong = [f"model.{name}={getattr(model, name)}" for name in _impossible(model)]
    if tokenizer.source_vocab_size != tokenizer.vocab_size or tokenizer.has_source_vocabulary:
        wrong.append(f"{tokenizer.source_vocab_size} pieces of the source, {tokenizer.vocab_size} of the target")
    if tokenizer.source_bos or not tokenizer.source_eos:
        wrong.append("sources with BOS before them or without EOS at the end")
    return wrong


def remedies(model: ModelConfig) -> list[str]:
    """The settings with which such a model could be represented, each as KEY=VALUE; none where it is so already.

    >>> remedies(ModelConfig(norm="pre", positions="rotary", tied_embeddings="none"))
    ['model.positions=sinusoidal', 'model.tied_embeddings=all']
    """
    return [f"model.{name}={value}" for name, value in _impossible(model).items()]


def _impossible(model: ModelConfig) -> dict[str, str | int]:
    """The fields whose value no class has, with one that it has."""
    if model.family != "transformer":
        return {"family": "transformer"}
    width = model.width // model.heads
    possible = {
        "positions": ("sinusoidal", "sinusoidal_concatenated", "sinusoidal_marian"),
        "activation": ("relu", *_ACTIVATIONS),
        "key_width": (0, width),
        "value_width": (0, width),
        "zero_start": (False,),
        "autoregression": ("attention",),
    }
    if model.norm == "pre":
        possible["tied_embeddings"] = ("all",)
    return {name: values[0] for name, values in possible.items() if getattr(model, name) not in values}


def to_hugging_face(
    weights: dict[str, np.ndarray], config: Config, tokenizer: Tokenizer
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(the content of config.json, that of model.safetensors) for weights that have Hugging Face's names already.

    If the model's sinusoids are not those that their code computes, the weights include a table of them, which that code
    loads. Pegasus always has one in its file.
    """
    model, positions = config.model, max(MAX_POSITIONS, config.batch.max_length)
    class_name, model_type = _CLASSES[model.norm]
    if model.positions != "sinusoidal_concatenated" or model.first_position or model.norm == "pre":
        table = np.array(sinusoids(model.first_position + jnp.arange(positions), model.width, model.positions))
        weights = weights | dict.fromkeys(POSITION_TABLES, table)
    options = {
        "architectures": [class_name],
        "model_type": model_type,
        "is_encoder_decoder": True,
        "torch_dtype": "float32",
        "vocab_size": tokenizer.vocab_size,
        "d_model": model.width,
        "encoder_layers": model.num_layers,
        "decoder_layers": model.decoder_depth,
        "encoder_attention_heads": model.heads,
        "decoder_attention_heads": model.heads,
        "encoder_ffn_dim": model.feed_forward_width,
        "decoder_ffn_dim": model.feed_forward_width,
        "activation_function": _ACTIVATIONS[model.activation],
        "max_position_embeddings": positions,
        "scale_embedding": model.scale_embedding,
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
    if model.norm == "post":  # of Marian alone
        shared = model.tied_embeddings == "all"
        options |= {"decoder_vocab_size": tokenizer.vocab_size, "share_encoder_decoder_embeddings": shared}
    return options, weights


def write_hugging_face(folder: Path, weights: dict[str, np.ndarray], config: Config, tokenizer: Tokenizer) -> None:
    """Writes to `folder` the files that `from_pretrained` of `class_of` the model and of MarianTokenizer reads."""
    options, weights = to_hugging_face(weights, config, tokenizer)
    id_names = "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id"
    never = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.unknown_id, tokenizer.decoder_start_id} - {tokenizer.eos_id}
    longest = options["max_position_embeddings"]
    search = {name: options[name] for name in id_names} | {
        "max_length": longest,
        "num_beams": config.decode.beam,
        "length_penalty": 0.0 if config.decode.length_normalization == "none" else config.decode.length_penalty,
        "bad_words_ids": [[row] for row in sorted(never)],
    }
    added = {tokenizer.pieces([row])[0]: row for row in tokenizer.added_pieces()}
    special = [text for text, row in added.items() if tokenizer.added_pieces()[row]]
    eos, unknown, pad = tokenizer.pieces([tokenizer.eos_id, tokenizer.unknown_id, tokenizer.pad_id])
    tokenizer_options = {
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
        "tokenizer_config.json": tokenizer_options,
        "vocab.json": {piece: row for piece, row in tokenizer.vocabulary().items() if piece not in added},
    }
    if added:
        contents["added_tokens.json"] = added
        contents["special_tokens_map.json"] = {
            "eos_token": eos,
            "unk_token": unknown,
            "pad_token": pad,
            "additional_special_tokens": special,
        }
    for name, content in contents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
