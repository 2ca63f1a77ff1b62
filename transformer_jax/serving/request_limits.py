"""How much one request may have, how many there may be at a time, and how long the server keeps what it made."""

from dataclasses import dataclass

from transformer_jax.errors import UserError

__all__ = ["RequestLimits"]


@dataclass(frozen=True)
class RequestLimits:
    """The limits of a server. Raises UserError for a value that is not above 0."""

    body_bytes: int = 1 << 20  # of a body without a file
    file_bytes: int = 10 << 20  # of a body with a file, or with the entries of a glossary
    texts: int = 100  # of one request
    characters: int = 20_000  # of one text
    alternatives: int = 3  # other translations of one text
    seconds: float = 60.0  # until a body, or a translation, is there
    requests: int = 256  # that are translated or wait for it; those beyond are sent away at once
    kept_seconds: float = 600.0  # how long a translated file is kept after it was last asked for
    kept_bytes: int = 64 << 20  # of all translated files that are kept

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0 and name != "alternatives":
                raise UserError(f"--max_{name}={value:g} should be more than 0")
