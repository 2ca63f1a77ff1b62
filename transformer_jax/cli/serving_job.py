"""What `serve.py` can be asked to do: its flags, their help, and which values they may have."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from transformer_jax.cli.parser import check_compute_dtype, flag
from transformer_jax.cli.protection_flags import check_protection, numbers_flag, protect_flag
from transformer_jax.errors import UserError

__all__ = ["ServingJob"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingJob:
    """A call of `serve.py`: each field is the flag of its name, `search` holds fields of `SearchOptions` that were given.
    Raises UserError for impossible values."""

    workdir: Sequence[str] = flag(
        "the run folder that train.py made; or several, each after its languages: en-de=RUN de-en=RUN2",
        nargs="+",
        metavar="[LANGUAGES=]RUN",
    )
    checkpoint: str = flag("latest, best, a step, or average:N, each also with :raw (default: best)", "best")
    host: str = flag("the address to listen at (default: 127.0.0.1, this machine alone; 0.0.0.0: all networks)", "127.0.0.1")
    port: int = flag("the port to listen at (default: 5000; 0: one that is free)", 5000)
    api_keys: str | None = flag(
        "a file of keys, one a line, of which a client needs one (default: none is needed)", None, metavar="FILE"
    )
    glossaries: str | None = flag("a folder in which clients' glossaries are kept (default: in memory)", None, metavar="FOLDER")
    cors: Sequence[str] = flag(
        "pages of these origins, such as https://example.org, may ask from a browser; * for all (default: none)",
        (),
        nargs="+",
        metavar="ORIGIN",
    )
    compute_dtype: str = flag(
        "of the products: float32 (default; a translation never depends on the requests beside it), bfloat16, auto (the run's)",
        "float32",
    )
    alignment_layer: int | None = flag(
        "whose attention puts markup back, from 1 (default: the best on the dev set)", None, metavar="N"
    )
    protect: Sequence[str] | None = protect_flag()
    numbers: str = numbers_flag()
    max_characters: int = flag("of one text (default: 20000)", 20_000, metavar="N")
    max_texts: int = flag("of a request (default: 100)", 100, metavar="N")
    max_bytes: int = flag("of a request with a file (default: 10485760; one without: at most 1048576)", 10 << 20, metavar="N")
    max_seconds: float = flag("until a body or a translation is there (default: 60)", 60.0, metavar="SECONDS")
    max_requests: int = flag("that are answered or wait; those beyond get 503 at once (default: 256)", 256, metavar="N")
    grace: float = flag("seconds that requests have to their end after SIGTERM (default: 30)", 30.0, metavar="SECONDS")
    log_requests: bool = flag("log path and status of each request; texts are never logged", False)
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_compute_dtype(self.compute_dtype)
        check_protection(self.protect, self.numbers)
        if not self.grace > 0:
            raise UserError(f"--grace={self.grace:g} should be more than 0")
