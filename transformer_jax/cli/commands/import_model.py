"""Makes a run folder of another system's model: Marian's own files (OPUS-MT), Hugging Face's MarianMTModel, or CTranslate2's.

    transformer-jax import opus-mt-en-de runs/opus
    transformer-jax import translate-en_de-1_0.argosmodel runs/argos

The run translates, is scored, tuned, exported and shown like any other. A CTranslate2 model needs its SentencePiece model
beside it, as in Argos Translate's packages, packed or not; its weights may have 8 or 16 bits, and become float32.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command."""
    parser = Parser(__doc__, prog)
    parser.add_argument("source", metavar="FOLDER", help="the model's folder, or an .argosmodel file")
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
