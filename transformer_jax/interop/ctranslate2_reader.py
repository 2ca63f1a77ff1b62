"""Reads the folder of a CTranslate2 model without their library: Argos Translate's packages, OPUS-MT's converted models.

    model.bin                                          the parameters (`ctranslate2_file.py`)
    config.json                                        special tokens (before version 6 of the format in model.bin)
    shared_vocabulary.json or .txt                     the pieces of the rows; or source_vocabulary and target_vocabulary
    sentencepiece.model, or source.spm and target.spm  beside it, or in the folder above; or a tokenizer/ of our export

An Argos package has these in `model/`, the SentencePiece model above, and the languages in `metadata.json`; it may be zipped
(`.argosmodel`). The models are the same function, with one exception: here the unknown piece, padding and BOS are never
generated. The search is the project's own (`ctranslate2.py` says what differs), with CTranslate2's formula of the length
penalty.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import unflatten_dict

from transformer_jax.config import Config
from transformer_jax.config.keys import as_dict
from transformer_jax.config.validation import from_dict
from transformer_jax.errors import UserError
from transformer_jax.interop.ctranslate2 import SETTINGS
from transformer_jax.interop.ctranslate2_file import parse_model_file
from transformer_jax.interop.ctranslate2_model import read_transformer
from transformer_jax.interop.ctranslate2_variables import Variables
from transformer_jax.interop.ctranslate2_vocabulary import Pieces, read_pieces
from transformer_jax.interop.foreign_model import Foreign, languages_of, load_sentencepiece, require_supported
from transformer_jax.interop.model_files import ModelFiles, is_ctranslate2
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["is_ctranslate2", "read_ctranslate2"]

_HEADS = {"TransformerBase": 8, "TransformerBig": 16}  # of kinds of model whose file does not say it
_KINDS = ("TransformerSpec", *_HEADS)
_EPSILON = 1e-5  # of the layer norms where config.json does not say another
_MAX_LENGTH = 512  # most tokens of a source at which a training may go on
# What config.json says of other kinds of model, or of what is computed alike by both.
_IGNORED = {"multi_query_attention", "alignment_heads", "alignment_layer", "quantization_bits", "quantization_group_size"}
_TOKENS = {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}  # and their names, if nothing else is said
_OLD_FLAGS = {
    "source_bos": False,
    "source_eos": False,
    "target_bos": True,
}  # of variables in older versions, and what counts without
_ONE_MODEL = ("sentencepiece.model", "sentencepiece.bpe.model", "spm.model")  # names of a SentencePiece model of both sides
_SEARCH = {"length_penalty": 1.0, "length_normalization": "power"}  # as theirs is if nothing else is said
_ARGOS_SEARCH = _SEARCH | {"length_penalty": 0.2}


def read_ctranslate2(path: Path) -> Foreign:
    """The model in a folder or an `.argosmodel` file. Raises UserError for missing or damaged files, and for options that no
    model here supports, naming all of them."""
    with ModelFiles(path) as files:
        return _read(files)


def _read(files: ModelFiles) -> Foreign:
    where = files.where("model.bin")
    content = parse_model_file(files.read("model.bin", "CTranslate2's parameters"), where)
    if content.name not in _KINDS or content.revision < 2:
        kind = f"{content.name!r:.60}, revision {content.revision}"
        raise UserError(
            f"{where}: a model of kind {kind}; expected {_KINDS[0]}, an encoder with a decoder, revision 2 or later"
        )
    if content.name in _HEADS:
        content.variables.setdefault("num_heads", np.array(_HEADS[content.name], np.int16))
    variables = Variables(content.variables, where)
    options = _options(files, variables, content.version)
    found = read_transformer(variables, options["layer_norm_epsilon"], where)
    pieces = read_pieces(files, options, found)
    model, parameters = pieces.fitted(found)
    tokenizer, normalizes = _tokenizer(files, pieces, options)
    metadata = files.read_json("metadata.json", "the package's languages") if files.has("metadata.json") else {}
    settings = _settings(files)
    decode = settings["decode"] if settings else _ARGOS_SEARCH if "argos_version" in metadata else _SEARCH
    longest = min(settings["batch"]["max_length"] if settings else _MAX_LENGTH, found.positions)
    languages = settings["data"] if settings else {}
    return Foreign(
        model=model,
        parameters=lambda: unflatten_dict(parameters, sep="/"),
        tokenizer=tokenizer,
        vocab_size=len(pieces.target),
        longest=longest,
        decode=decode,
        languages=languages_of(
            languages.get("source_language", metadata.get("from_code")),
            languages.get("target_language", metadata.get("to_code")),
        ),
        notes=pieces.notes + _notes(files, options, metadata),
        normalize=normalizes,
    )


def _options(files: ModelFiles, variables: Variables, version: int) -> dict[str, Any]:
    """What config.json says, or in older versions the variables. Raises UserError for a wrong type, and for what no model of
    ours has."""
    if version < 6:
        flags = {name: bool(variables.attribute("", f"with_{name}", default)) for name, default in _OLD_FLAGS.items()}
        texts = {f"{name}_token": variables.text(f"{name}_token", default) for name, default in _TOKENS.items()}
        start = texts["bos_token"] if flags["target_bos"] else texts["eos_token"]
        if variables.attribute("", "user_decoder_start_tokens", 0):
            start = None
        found = {f"add_{name}": flags[name] for name in ("source_bos", "source_eos")}
        return texts | found | {"decoder_start_token": start, "layer_norm_epsilon": _EPSILON, "rest": {}}
    where, given = files.where("config.json"), files.read_json("config.json", "the special tokens")
    defaults = {f"{name}_token": default for name, default in _TOKENS.items()} | {
        "add_source_bos": False,
        "add_source_eos": False,
    }
    options = {name: given.pop(name, default) for name, default in defaults.items()}
    options["decoder_start_token"] = given.pop("decoder_start_token", options["bos_token"])
    epsilon = given.pop("layer_norm_epsilon", None)
    options["layer_norm_epsilon"] = _EPSILON if epsilon is None else epsilon
    texts = [name for name in options if name.endswith("_token") and not (options[name] is None and "decoder" in name)]
    wrong = [f"{name}: {options[name]!r:.60} (expected a token)" for name in texts if not _is_token(options[name])]
    flags = [name for name in options if name.startswith("add_") and type(options[name]) is not bool]
    wrong += [f"{name}: {options[name]!r:.60} (expected true or false)" for name in flags]
    if type(options["layer_norm_epsilon"]) not in (int, float) or not 0 < options["layer_norm_epsilon"] <= 1:
        wrong.append(f"layer_norm_epsilon: {options['layer_norm_epsilon']!r:.60} (expected a number above 0, at most 1)")
    if quantization := given.pop("quantization_type", 0):
        wrong.append(f"quantization_type: {quantization!r:.60} (expected none, or weights of 8 or 16 bits)")
    require_supported(wrong, where)
    options["layer_norm_epsilon"] = float(options["layer_norm_epsilon"])
    options["rest"] = {name: value for name, value in given.items() if name not in _IGNORED}
    return options


def _is_token(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _tokenizer(
    files: ModelFiles, pieces: Pieces, options: dict[str, Any]
) -> tuple[Callable[[epath.PathLike], Tokenizer], bool]:
    """What writes the tokenizer to a folder, and whether it normalises text."""
    if (folder := files.folder("tokenizer")) and (folder / "tokenizer.json").is_file():
        own = Tokenizer.load(folder)
        listed = [own.pieces(range(own.vocab_size)), own.source_pieces(range(own.source_vocab_size))]
        if listed != [pieces.listed_target, pieces.listed_source]:
            raise UserError(
                f"{folder}: not the tokenizer of {files.where('model.bin')}: its vocabulary differs; export it again"
            )

        def copied(to: epath.PathLike) -> Tokenizer:
            own.copy_to(to)
            return Tokenizer.load(to)

        return copied, own.normalizes
    models = _sentencepiece(files, pieces)
    marks = options["add_source_bos"], options["add_source_eos"]

    def written(to: epath.PathLike) -> Tokenizer:
        return Tokenizer.of_models(*models, pieces.target, pieces.ids, to, source_pieces=pieces.source, source_marks=marks)

    return written, False


def _sentencepiece(files: ModelFiles, pieces: Pieces) -> tuple[bytes, bytes]:
    """The SentencePiece models of source and target. Raises UserError where there are none, or where a model has no piece of
    the vocabulary."""
    pairs = [("source.spm", "target.spm"), ("source.model", "target.model"), *((name, name) for name in _ONE_MODEL)]
    pair = next((pair for pair in pairs if all(map(files.has, pair))), None)
    if pair is None:
        others = [name for name in files.names() if name.endswith((".spm", ".model")) and name != "bpe.model"]
        if len(others) != 1:
            found = ", ".join(others) or ("a bpe.model, of Moses and subword-nmt" if files.has("bpe.model") else "none")
            raise UserError(
                f"{files.given}: expected a sentencepiece.model, or source.spm and target.spm, beside the model; found {found}"
            )
        pair = (others[0],) * 2
    contents = [files.read(name, "a SentencePiece model") for name in pair]
    for name, content, listed in zip(pair, contents, (pieces.source or pieces.target, pieces.target), strict=True):
        model = load_sentencepiece(content, files.where(name))
        own = {model.id_to_piece(i) for i in range(model.get_piece_size()) if not (model.is_control(i) or model.is_unknown(i))}
        if own.isdisjoint(listed):
            raise UserError(f"{files.where(name)}: has no piece of the vocabulary in common with the model; expected its own")
    return contents[0], contents[1]


def _settings(files: ModelFiles) -> dict[str, Any] | None:
    """What our export wrote into `SETTINGS`, checked; None where there is no such file."""
    if not files.has(SETTINGS):
        return None
    where, given = files.where(SETTINGS), files.read_json(SETTINGS, "the settings of our export")
    config = from_dict(Config, {name: given.get(name, {}) for name in ("data", "batch", "decode")}, where)
    return {name: as_dict(config)[name] for name in ("data", "batch", "decode")}


def _notes(files: ModelFiles, options: dict[str, Any], metadata: dict[str, Any]) -> list[str]:
    notes = []
    if options["rest"]:
        left = ", ".join(f"{name}: {value!r:.60}" for name, value in sorted(options["rest"].items()))
        notes.append(f"of config.json not taken over: {left}")
    if files.has("vmap.txt"):
        notes.append("vmap.txt not taken over: here the whole vocabulary may follow")
    if metadata.get("target_prefix"):
        prefix = f"{metadata['target_prefix']!r:.60}"
        notes.append(f"of metadata.json not taken over: target_prefix {prefix}, with which translations must begin (--prefix)")
    return notes
