"""What `transformer-jax score_pairs` can be asked to do: its flags and their help."""

import dataclasses

from transformer_jax.cli.parser import flag
from transformer_jax.errors import UserError
from transformer_jax.storage.text_files import STANDARD

__all__ = ["PairScoringJob"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairScoringJob:
    """A call of `transformer-jax score_pairs`: each field is the flag of its name. Raises UserError for impossible values."""

    text: str = flag("a source as in data.dev: PREFIX, FILE.tsv, ...", positional=True, metavar="TEXT")
    output: str = flag("the file of scores, which grows in blocks; FILE.progress beside it says how far it is", metavar="FILE")
    forward: str | None = flag(
        "a model from source to target, best unless CHECKPOINT is named", None, metavar="RUN[:CHECKPOINT]"
    )
    backward: str | None = flag("a model from target to source", None, metavar="RUN[:CHECKPOINT]")
    max_length: int | None = flag(
        "pairs with more tokens on a side have the score 0 (default: the models' batch.max_length)", None, metavar="N"
    )
    batch_size: int = flag("pairs that are read, scored and written together (default: 1000)", 1000)

    def __post_init__(self):
        if not (self.forward or self.backward):
            raise UserError("--forward and --backward: expected a model of one of them, or better of both")
        if self.output == STANDARD:
            raise UserError("--output=-: the command can only go on with a file; name one")
        if self.batch_size < 1:
            raise UserError(f"--batch_size={self.batch_size} should be 1 or more")
        if self.max_length is not None and self.max_length < 2:
            raise UserError(f"--max_length={self.max_length} should be 2 or more")
