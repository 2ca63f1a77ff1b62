"""A config as JSON, which a run folder keeps as `config.json`."""

import json

from transformer_jax.config.keys import as_dict
from transformer_jax.config.sections import Config
from transformer_jax.config.validation import from_dict, validate
from transformer_jax.errors import UserError

__all__ = ["from_json", "to_json"]


def to_json(config: Config) -> str:
    """What `config.json` holds: an object for each section, with a value for each field."""
    return json.dumps(as_dict(config), indent=2) + "\n"


def from_json(text: str, name: str = "config") -> Config:
    """The inverse of `to_json`; `tokenizer.normalize` is false where it is not there, as in runs from before it was.
    Raises UserError with `name` and the key on unknown keys, wrong types, impossible values."""
    try:
        data = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and thousands of brackets
        raise UserError(f"{name}: not JSON ({error})") from None
    train, tokenizer = (data.get(section) if isinstance(data, dict) else None for section in ("train", "tokenizer"))
    if isinstance(train, dict) and "evaluate_bleu" in train:  # runs from before there was a choice
        train["metric"] = "bleu" if train.pop("evaluate_bleu") else "loss"
    if isinstance(tokenizer, dict):  # runs from before text was normalised
        tokenizer.setdefault("normalize", False)
    config = from_dict(Config, data, name)
    try:
        return validate(config)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
