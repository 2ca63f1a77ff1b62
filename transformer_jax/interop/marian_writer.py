"""Writes a model in Marian's own files, as OPUS-MT ships them: `.npz`, `decoder.yml`, vocabulary, SentencePiece models.

    transformer-jax export runs/tuned tuned_marian --format=marian

    model.npz                 the parameters, and the model's options as YAML in `special:model.yml`
    vocab.yml                 the row of each piece; source.vocab.yml and target.vocab.yml where each side has its own
    source.spm, target.spm    what cuts the text into pieces, before Marian and after it
    decoder.yml               files and search, for `marian-decoder -c decoder.yml`

Marian's decoder begins with zeros, so that a run can be written that has been imported from Marian and not been trained on, or
that was trained with `model.zero_start=true`. `marian_npz.py` reads such a folder again; where the decoder's start has no row
in the vocabulary, as in imported models, the parameters are the same bits.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from transformer_jax.config import Config, ModelConfig, SearchOptions
from transformer_jax.errors import UserError
from transformer_jax.interop.marian_npz import ACTIVATIONS, CONFIG, EPSILON
from transformer_jax.interop.marian_weights import MARIAN, from_parameters
from transformer_jax.interop.parameters import completed, flat_parameters, text_notes
from transformer_jax.storage.output_folders import require_possible_output, written_whole
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["write_marian"]

_EOS, _UNKNOWN = "</s>", "<unk>"  # Marian finds these two by their names
_ROWS = ("Wemb", "decoder_Wemb", "decoder_ff_logit_out_Wt")  # tables with a row for each piece of the target
_BIAS = "decoder_ff_logit_out_b"
_WITHOUT_OPTION = ("coverage_penalty", "no_repeat_ngram")  # of the search


def write_marian(params: Any, tokenizer: Tokenizer, config: Config, output: str | Path) -> list[str]:
    """Writes the parameters, a tree of arrays of the model that `config.model` describes, to `output`, a folder that is new or
    empty. Returns notes about differences. Raises UserError for a model that Marian cannot represent, naming all reasons, and
    if `output` cannot be written."""
    require_possible_output(output)
    model = config.model
    if wrong := _unsupported(model):
        raise UserError(f"{tokenizer.folder.parent}: Marian has no {', no '.join(wrong)}")
    flat = flat_parameters(params, model, tokenizer.vocab_size)
    start = np.asarray(flat["target_embedding/table"])[tokenizer.decoder_start_id]
    wrong = _unsupported_tokens(tokenizer)
    if start.any() and not model.zero_start:
        piece = tokenizer.pieces([tokenizer.decoder_start_id])[0]
        remedy = "a training with --config.model.zero_start=true gives a model that does"
        wrong.append(f"embedding of the decoder's start, and that of {piece} is not zeros: Marian begins with zeros; {remedy}")
    if wrong:
        raise UserError(f"{tokenizer.folder.parent}: Marian has no {', no '.join(wrong)}")
    complete, with_biases = completed(params, model, tokenizer.vocab_size)
    weights = from_parameters(complete, with_biases, tokenizer.vocab_size, MARIAN)
    rows = tokenizer.vocab_size
    if _start_is_no_piece(tokenizer):
        rows -= 1
        tables = _ROWS if tokenizer.has_source_vocabulary else ("encoder_Wemb", *_ROWS)
        weights |= {name: weights[name][:rows] for name in tables if name in weights}
        weights[_BIAS] = weights[_BIAS][:, :rows]
    options = _options(model, [tokenizer.source_vocab_size if tokenizer.has_source_vocabulary else rows, rows])
    text = yaml.safe_dump(options, sort_keys=False).encode() + b"\0"
    arrays = io.BytesIO()
    np.savez(arrays, **weights, **{CONFIG: np.frombuffer(text, np.int8)})
    vocabularies = {"vocab.yml": tokenizer.pieces(range(rows))}
    if tokenizer.has_source_vocabulary:
        source = tokenizer.source_pieces(range(tokenizer.source_vocab_size))
        vocabularies = {"source.vocab.yml": source, "target.vocab.yml": vocabularies["vocab.yml"]}
    with written_whole(output) as unfinished:
        unfinished.mkdir(parents=True, exist_ok=True)
        (unfinished / "model.npz").write_bytes(arrays.getvalue())
        for name, pieces in vocabularies.items():
            (unfinished / name).write_text(_vocabulary(pieces), encoding="utf-8")
        for name, content in zip(("source.spm", "target.spm"), tokenizer.models(), strict=True):
            (unfinished / name).write_bytes(content)
        (unfinished / "decoder.yml").write_text(_decoder(config, [*vocabularies]), encoding="utf-8")
    return _notes(config, tokenizer, bool(start.any()) and rows < tokenizer.vocab_size)


def _unsupported(model: ModelConfig) -> list[str]:
    """The options of a model that Marian does not have, each as FIELD=VALUE."""
    if model.family != "transformer":
        return [f"model.family={model.family}"]
    width = model.width // model.heads
    possible = {
        "positions": ("sinusoidal_marian",),
        "first_position": (0,),
        "activation": tuple(ACTIVATIONS.values()),
        "scale_embedding": (True,),
        "key_width": (0, width),
        "value_width": (0, width),
    }
    return [f"model.{name}={getattr(model, name)}" for name, values in possible.items() if getattr(model, name) not in values]


def _unsupported_tokens(tokenizer: Tokenizer) -> list[str]:
    """What the tokenizer does that Marian does not."""
    wrong = []
    for name, row in ((_EOS, tokenizer.eos_id), (_UNKNOWN, tokenizer.unknown_id)):
        for pieces in (tokenizer.pieces([row]), tokenizer.source_pieces([row])):
            if pieces != [name] and f"{name} called {pieces[0]}" not in wrong:
                wrong.append(f"{name} called {pieces[0]}")
    if tokenizer.source_bos or not tokenizer.source_eos:
        wrong.append("sources with BOS before them or without EOS at the end")
    if tokenizer.source_vocab_size != tokenizer.vocab_size and not tokenizer.has_source_vocabulary:
        sizes = tokenizer.source_vocab_size, tokenizer.vocab_size
        wrong.append("{} pieces of the source, {} of the target, in one vocabulary".format(*sizes))
    return wrong


def _start_is_no_piece(tokenizer: Tokenizer) -> bool:
    """Is the start the last row, which the import of a Marian model has added?"""
    ids = tokenizer.eos_id, tokenizer.unknown_id, tokenizer.bos_id
    return tokenizer.decoder_start_id == tokenizer.vocab_size - 1 and tokenizer.decoder_start_id not in ids


def _options(model: ModelConfig, vocabularies: list[int]) -> dict[str, Any]:
    """The content of `special:model.yml`."""
    pre, tied = model.norm == "pre", model.tied_embeddings
    activations = {own: theirs for theirs, own in ACTIVATIONS.items()}
    return {
        "type": "transformer",
        "input-types": ["sequence", "sequence"],
        "dim-vocabs": vocabularies,
        "dim-emb": model.width,
        "enc-depth": model.num_layers,
        "dec-depth": model.decoder_depth,
        "transformer-heads": model.heads,
        "transformer-dim-ffn": model.feed_forward_width,
        "transformer-ffn-depth": 2,
        "transformer-ffn-activation": activations[model.activation],
        "transformer-decoder-autoreg": "rnn" if model.autoregression == "ssru" else "self-attention",
        "dec-cell": "ssru" if model.autoregression == "ssru" else "gru",  # Marian's default, of no use here
        "transformer-guided-alignment-layer": "last",
        "transformer-no-projection": False,
        "transformer-preprocess": "n" if pre else "",
        "transformer-postprocess": "da" if pre else "dan",
        "transformer-postprocess-emb": "d",
        "transformer-postprocess-top": "n" if pre else "",
        "transformer-tied-layers": [],
        "transformer-train-position-embeddings": False,
        "tied-embeddings": tied == "target",
        "tied-embeddings-src": False,
        "tied-embeddings-all": tied == "all",
        "skip": False,
        "right-left": False,
        "ulr": False,
        "lemma-dim-emb": 0,
    }


def _vocabulary(pieces: list[str]) -> str:
    """A vocabulary in YAML, a piece a line.

    >>> _vocabulary(["</s>", 'say "a"'])
    '"</s>": 0\\n"say \\\\"a\\\\"": 1\\n'
    """
    return "".join(f"{json.dumps(piece, ensure_ascii=not piece.isprintable())}: {row}\n" for row, piece in enumerate(pieces))


def _decoder(config: Config, vocabularies: list[str]) -> str:
    """The content of `decoder.yml`."""
    decode = config.decode
    options = {
        "relative-paths": True,
        "models": ["model.npz"],
        "vocabs": [vocabularies[0], vocabularies[-1]],
        "beam-size": decode.beam,
        "normalize": _normalize(decode),
    }
    if decode.word_reward and not _normalize(decode):
        options["word-penalty"] = -decode.word_reward
    return yaml.safe_dump(options, sort_keys=False)


def _normalize(decode: SearchOptions) -> float:
    return 0.0 if decode.length_normalization == "none" else decode.length_penalty


def _notes(config: Config, tokenizer: Tokenizer, start_is_lost: bool) -> list[str]:
    decode, epsilon, notes = config.decode, config.model.norm_epsilon, []
    if epsilon != EPSILON:
        notes.append(f"model.norm_epsilon={epsilon:g}: theirs is {EPSILON:g}")
    if decode.length_normalization == "gnmt" and decode.length_penalty:
        notes.append(f"decode.length_normalization=gnmt: theirs is power, with normalize: {decode.length_penalty:g}")
    left = [name for name in _WITHOUT_OPTION if getattr(decode, name) != getattr(SearchOptions(), name)]
    notes += [f"decode.{name}={getattr(decode, name)} not taken over: decoder.yml has no such option" for name in left]
    if decode.word_reward and _normalize(decode):
        notes.append(
            f"decode.word_reward={decode.word_reward:g} not taken over: Marian would divide its word-penalty by the length"
        )
    if start_is_lost:
        notes.append("the row of the decoder's start, which no translation has, is left out: probabilities differ by its own")
    return notes + text_notes(config, tokenizer.normalizes, "source.spm")
