"""Makes a run folder of a Marian model, such as OPUS-MT's: Marian's own files, or those of Hugging Face's MarianMTModel.

    transformer-jax import opus-mt-en-de runs/opus

The run translates, is scored, exported and shown like any other.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command."""
    parser = Parser(__doc__, prog)
    parser.add_argument("source", metavar="FOLDER", help="the model's folder")
    parser.add_argument("output", metavar="RUN", help="the run folder to write, new or empty")
    parser.add_argument("--languages", nargs=2, metavar=("SOURCE", "TARGET"), help="such as en de, where FOLDER has no names")
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Imports as the arguments say, by default those of the process. Raises UserError for bad input."""
    flags = make_parser(prog).parse_args(arguments)
    program.set_up()
    from transformer_jax.cli.marian import write_run

    write_run(flags.source, flags.output, flags.languages)


if __name__ == "__main__":
    program.main(run)
