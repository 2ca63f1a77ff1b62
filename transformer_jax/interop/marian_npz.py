"""Reads a model in Marian's own files, as OPUS-MT ships them: `.npz`, vocabulary, SentencePiece models, `decoder.yml`."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.interop.foreign_model import (
    LARGEST_SIZE,
    Foreign,
    aligned,
    find_one,
    read_file,
    read_sentencepiece,
    require_supported,
    rows_of,
)
from transformer_jax.interop.marian_vocabulary import MarianVocabulary, model_with_rows, read_vocabularies, with_rows
from transformer_jax.interop.marian_weights import MARIAN, to_parameters
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["ACTIVATIONS", "CONFIG", "EPSILON", "read_marian"]

CONFIG = "special:model.yml"  # the name of the array of the model's options
ACTIVATIONS = {"swish": "silu", "relu": "relu", "gelu": "gelu_sigmoid"}  # Marian's names -> this project's
# The only supported value of each option, and the value that counts where an older version of Marian left the option out.
_ONLY = {
    "type": ("transformer", None),
    "transformer-no-projection": (False, False),
    "transformer-ffn-depth": (2, 2),
    "transformer-train-position-embeddings": (False, False),
    "transformer-train-positions": (False, False),
    "transformer-tied-layers": ([], []),
    "transformer-pool": (False, False),
    "transformer-no-bias": (False, False),
    "transformer-no-affine": (False, False),
    "lemma-dim-emb": (0, 0),
    "right-left": (False, False),
    "ulr": (False, False),
}
# The options with which a recurrent decoder is an SSRU as `models.ssru` has it; those that are False may be left out.
_SSRU = {"dec-cell": "ssru", "transformer-rnn-projection": False, "layer-normalization": False}
_NORM = {("", "an", ""): "post", ("n", "a", "n"): "pre"}  # preprocess, postprocess, postprocess-top, without dropout
EPSILON = 1e-6  # of the layer norm in Marian's Transformer; Hugging Face's has 1e-5
_LONGEST = 512  # the number of positions that OPUS-MT's models were trained with


class _WithoutAliases(yaml.SafeLoader):
    """A YAML loader that refuses aliases, which Marian never writes: a few lines with aliases of aliases can fill any
    memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias, which marian does not write", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def read_marian(folder: Path) -> Foreign:
    """The model in `folder`. Raises UserError for missing or damaged files, and for options that no model here supports, naming
    all of them."""
    decoder = _yaml(folder / "decoder.yml") if (folder / "decoder.yml").exists() else {}
    path = _one(folder, decoder.get("models"), "*.npz", "model")
    weights = _read_npz(path)
    options = _parse(weights.pop(CONFIG).tobytes().rstrip(b"\0"), f"{path}: {CONFIG}")
    model = _model(options, path)
    source, vocabulary = read_vocabularies(folder, decoder.get("vocabs"))
    table = "Wemb" if model.tied_embeddings == "all" else "decoder_Wemb"
    rows = len(weights[table]) if table in weights and weights[table].ndim else len(vocabulary.rows)
    pieces = with_rows(vocabulary, rows)
    decode, notes = _decode(decoder)
    ids = {
        "pad_id": rows,
        "eos_id": vocabulary.eos_id,
        "unknown_id": vocabulary.unknown_id,
        "bos_id": vocabulary.bos_id,
        "decoder_start_id": rows,
    }
    weights = _with_start(weights, ("encoder_Wemb",) if source is vocabulary else ())
    if source is vocabulary:
        models, listed = _models(folder, vocabulary, pieces), pieces if vocabulary.model is None else None
        tokenizer = partial(Tokenizer.of_models, *models, listed, ids)
    else:
        tokenizer, weights, model = _with_own_source(folder, (source, vocabulary), pieces, ids, weights, model, path)
    return Foreign(
        model=model,
        parameters=partial(to_parameters, weights, model, len(pieces), MARIAN, str(path)),
        tokenizer=tokenizer,
        vocab_size=len(pieces),
        longest=_LONGEST,
        decode=decode,
        languages=None,
        notes=notes,
    )


def _models(folder: Path, vocabulary: MarianVocabulary, pieces: list[str | None]) -> tuple[bytes, bytes]:
    """The SentencePiece models of source and target."""
    if vocabulary.model is None:
        return read_sentencepiece(folder, "source"), read_sentencepiece(folder, "target")
    return (model_with_rows(vocabulary.model, pieces),) * 2


def _with_own_source(
    folder: Path,
    vocabularies: tuple[MarianVocabulary, MarianVocabulary],
    pieces: list[str | None],
    ids: dict[str, int],
    weights: dict[str, np.ndarray],
    model: ModelConfig,
    path: Path,
) -> tuple[Callable[..., Tokenizer], dict[str, np.ndarray], ModelConfig]:
    """What writes the tokenizer, the weights and the options of a model whose source has a vocabulary of its own. Its rows are
    exchanged so that special pieces have the target's rows."""
    table = weights.get("encoder_Wemb")
    if table is None or table.ndim != 2 or model.tied_embeddings == "all":
        raise UserError(f"{path}: two vocabularies that differ, and one table for both sides; expected an encoder_Wemb")
    own, target = vocabularies
    ids = ids | {"pad_id": ids["unknown_id"]}
    special = {target.eos_id: pieces[target.eos_id], target.unknown_id: pieces[target.unknown_id]}
    source_pieces, order = aligned(rows_of(own.rows, len(table), own.where), special, str(path))
    weights = weights | {"encoder_Wemb": np.concatenate([table, np.zeros_like(table[:1])])[order]}
    model.source_vocab_size = len(order) if len(order) != len(pieces) else 0
    models = (own.model, target.model) if own.model is not None else _models(folder, own, pieces)
    tokenizer = partial(Tokenizer.of_models, *models, pieces, ids, source_pieces=source_pieces)
    return tokenizer, weights, model


def _with_start(weights: dict[str, np.ndarray], sources: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Adds the row of the piece that the decoder starts with. Marian's decoder starts with a vector of zeros instead of a
    piece; here, as in Hugging Face, the last row is zeros and stands for it. Its logit is 0, and it is never generated."""
    changed = dict(weights)
    if "decoder_ff_logit_out_W" in changed:  # of a model without tied embeddings, with the inputs first
        changed["decoder_ff_logit_out_Wt"] = changed.pop("decoder_ff_logit_out_W").T
    for name in ("Wemb", "decoder_Wemb", "decoder_ff_logit_out_Wt", *sources):
        if name in changed and changed[name].ndim == 2:
            changed[name] = np.pad(changed[name], ((0, 1), (0, 0)))
    bias = "decoder_ff_logit_out_b"
    if bias in changed and changed[bias].ndim == 2:
        changed[bias] = np.pad(changed[bias], ((0, 0), (0, 1)))
    return changed


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    content = read_file(path, "Marian's parameters")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            weights = dict(arrays)
    except Exception as error:  # zipfile, zlib and NumPy raise many types for damaged files
        raise UserError(f"{path}: not a whole .npz file ({error}); download it again") from None
    if CONFIG not in weights:
        raise UserError(f"{path}: has no {CONFIG}, the model's options; expected an .npz file as marian writes it")
    return weights


def _model(options: dict[str, Any], path: Path) -> ModelConfig:
    wrong = [
        f"{name}: {options.get(name)!r} (expected {only!r})"
        for name, (only, left_out) in _ONLY.items()
        if (left_out if options.get(name) is None else options[name]) != only
    ]
    if set(options.get("input-types") or ()) - {"sequence"}:
        wrong.append(f"input-types: {options['input-types']!r} (expected sequences)")
    activation = options.get("transformer-ffn-activation", "swish")
    if activation not in ACTIVATIONS:
        wrong.append(f"transformer-ffn-activation: {activation!r} (expected {' or '.join(ACTIVATIONS)})")
    if "n" in str(options.get("transformer-postprocess-emb", "d")):
        wrong.append(f"transformer-postprocess-emb: {options['transformer-postprocess-emb']!r} (expected 'd' or '')")
    autoregression = _autoregression(options)
    if not autoregression:
        named = {name: options.get(name) for name in ("transformer-decoder-autoreg", *_SSRU)}
        wrong.append(f"{_listed(named)} (expected self-attention, or rnn with {_listed(_SSRU)})")
    defaults = {"preprocess": "", "postprocess": "dan", "postprocess-top": ""}
    order = tuple(str(options.get(f"transformer-{name}", value)).replace("d", "") for name, value in defaults.items())
    if order not in _NORM:
        of_order = {f"transformer-{name}": options.get(f"transformer-{name}", value) for name, value in defaults.items()}
        wrong.append(f"{_listed(of_order)} (expected '', 'dan', '' or 'n', 'da', 'n')")
    decoder_width = options.get("transformer-decoder-dim-ffn", 0)
    if decoder_width not in (0, options.get("transformer-dim-ffn")):
        wrong.append(f"transformer-decoder-dim-ffn: {decoder_width!r} (expected that of the encoder)")
    both, source = options.get("tied-embeddings", False), options.get("tied-embeddings-src", False)
    everything = options.get("tied-embeddings-all", False) or (both and source)
    if source and not everything:
        wrong.append("tied-embeddings-src: True without tied-embeddings (expected both or neither)")
    sizes = {
        name: options.get(name) for name in ("enc-depth", "dec-depth", "dim-emb", "transformer-dim-ffn", "transformer-heads")
    }
    wrong += [
        f"{name}: {size!r} (expected a whole number)"
        for name, size in sizes.items()
        if type(size) is not int or not 0 < size <= LARGEST_SIZE
    ]
    require_supported(wrong, path)
    return ModelConfig(
        num_layers=sizes["enc-depth"],
        decoder_layers=sizes["dec-depth"],
        width=sizes["dim-emb"],
        feed_forward_width=sizes["transformer-dim-ffn"],
        heads=sizes["transformer-heads"],
        tied_embeddings="all" if everything else "target" if both else "none",
        output_bias=not options.get("output-omit-bias", False),
        attention_bias=True,
        autoregression=autoregression,
        norm=_NORM[order],
        norm_epsilon=EPSILON,
        positions="sinusoidal_marian",
        activation=ACTIVATIONS[activation],
    )


def _autoregression(options: dict[str, Any]) -> str:
    """How the decoder sees the tokens before, as `ModelConfig.autoregression`; empty where no model here does so."""
    kind = options.get("transformer-decoder-autoreg", "self-attention")
    if kind == "rnn" and all((options.get(name) or False) == only for name, only in _SSRU.items()):
        return "ssru"
    return "attention" if kind == "self-attention" else ""


def _listed(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value!r}" for name, value in options.items())


def _decode(decoder: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The search options of `decoder.yml`: fields of DecodeConfig, and notes about those that have no field. Marian's score is
    (log P - word-penalty * n) / n ** normalize, ours log P / n ** length_penalty + word_reward * n."""
    decode: dict[str, Any] = {}
    beam, normalize = decoder.get("beam-size"), decoder.get("normalize", 0)
    if type(beam) is int and beam > 0:
        decode["beam"] = beam
    if isinstance(normalize, int | float) and normalize >= 0:  # `normalize: true` is 1
        decode |= {"length_penalty": float(normalize), "length_normalization": "power"}
    known = {"models", "vocabs", "relative-paths", "beam-size", "normalize"}
    penalty = decoder.get("word-penalty", 0)
    if isinstance(penalty, int | float) and penalty <= 0 and (not penalty or not normalize):
        known.add("word-penalty")
        decode |= {"word_reward": -float(penalty)} if penalty else {}
    rest = {name: value for name, value in decoder.items() if name not in known}
    return decode, [f"of decoder.yml not taken over: {_listed(rest)}"] if rest else []


def _one(folder: Path, named: Any, pattern: str, what: str) -> Path:
    """The file that decoder.yml names, or else the only one in the folder."""
    if isinstance(named, list) and named:
        if len(named) > 1:
            raise UserError(f"{folder / 'decoder.yml'}: names {len(named)} models; leave one, and make a run of each")
        return folder / Path(str(named[0])).name
    return find_one(folder, pattern, what)


def _yaml(path: Path) -> dict[str, Any]:
    return _parse(read_file(path, "Marian's options"), str(path))


def _parse(content: bytes, where: str) -> dict[str, Any]:
    try:
        options = yaml.load(content, _WithoutAliases)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: damaged, expected YAML ({' '.join(str(error).split())}); download it again") from None
    if not isinstance(options, dict):
        raise UserError(f"{where}: expected options with values, as marian writes them")
    return options
