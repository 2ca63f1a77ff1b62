"""The special and the added tokens of a MarianMTModel's folder."""

from pathlib import Path
from typing import Any

from transformer_jax.errors import UserError
from transformer_jax.interop.foreign_model import read_json

__all__ = ["added_tokens", "special_ids"]


def special_ids(
    search: dict[str, Any], tokenizer_options: dict[str, Any], vocabulary: dict[str, Any], size: int, where: Path
) -> dict[str, int]:
    """The row of each special token. `search` has the options of config.json, replaced by those of generation_config.json where
    both have one, as their search does. Raises UserError, naming the file `where` they stand."""
    eos, unknown = (
        _piece(tokenizer_options.get(name), piece) for name, piece in (("eos_token", "</s>"), ("unk_token", "<unk>"))
    )
    missing = [piece for piece in (eos, unknown) if piece not in vocabulary]
    if missing:
        raise UserError(f"{where.parent / 'vocab.json'}: has no {' and no '.join(missing)}; download the whole model again")
    ends = search.get("eos_token_id", vocabulary[eos])
    if vocabulary[eos] not in (ends if isinstance(ends, list) else [ends]):
        raise UserError(
            f"{where}: eos_token_id is {ends!r}, but {eos} has the number {vocabulary[eos]} in vocab.json; expected the same"
        )
    pad, start = search.get("pad_token_id"), search.get("decoder_start_token_id")
    ids = {"pad_id": pad, "decoder_start_id": pad if start is None else start}
    wrong = [name for name, value in ids.items() if type(value) is not int or not 0 <= value < size]
    if wrong:
        raise UserError(f"{where}: pad_token_id and decoder_start_token_id should be rows of the embedding")
    bos = search.get("bos_token_id")
    bos = bos if type(bos) is int and 0 <= bos < size else vocabulary[eos]
    return ids | {"eos_id": vocabulary[eos], "unknown_id": vocabulary[unknown], "bos_id": bos}


def added_tokens(
    folder: Path, tokenizer_options: dict[str, Any], pieces: list[str | None], special: set[int]
) -> tuple[dict[int, bool], list[str]]:
    """Tokens added to the vocabulary after training: {row: is it special}, and notes. Their names are written into `pieces`.

    As in their tokenizer, `added_tokens_decoder` of tokenizer_config.json counts, or else added_tokens.json. Raises UserError
    for tokens that cannot be, or that vocab.json contradicts.
    """
    listed, where = tokenizer_options.get("added_tokens_decoder"), folder / "tokenizer_config.json"
    if isinstance(listed, dict):
        tokens = [(row, token if isinstance(token, dict) else {"content": token}) for row, token in listed.items()]
    else:
        where = folder / "added_tokens.json"
        path = folder / "special_tokens_map.json"
        maps = [tokenizer_options, read_json(path, "the names of special tokens") if path.exists() else {}]
        lists = [options.get(key) for options in maps for key in ("additional_special_tokens", "extra_special_tokens")]
        extra = {_piece(token, "") for names in lists if isinstance(names, list) for token in names}
        rows = read_json(where, "the rows of added tokens") if where.exists() else {}
        tokens = [(row, {"content": text, "special": text in extra}) for text, row in rows.items()]
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


def _piece(token: Any, default: str) -> str:
    """The spelling of a special token, which tokenizer_config.json has as a string or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else default
