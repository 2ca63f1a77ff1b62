"""Writes the model of a run for another system: CTranslate2, Hugging Face Transformers, or Marian.

    transformer-jax export runs/demo demo_ct2 --format=ctranslate2 --quantization=int8
    transformer-jax export runs/demo demo_hf --format=hugging_face
    transformer-jax export runs/opus opus_again --format=marian

CTranslate2 takes every Transformer, Hugging Face those with sinusoidal positions: for MarianMTModel with model.norm=post, for
PegasusForConditionalGeneration with model.norm=pre. The tokenizer is MarianTokenizer for both. Marian takes those with
model.positions=sinusoidal_marian whose decoder begins with zeros, as imported models do, and runs with model.zero_start=true.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser

__all__ = ["make_parser", "run"]

_FORMATS = ("ctranslate2", "hugging_face", "marian")


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command."""
    parser = Parser(__doc__, prog)
    parser.add_argument("workdir", metavar="RUN", help="a run folder")
    parser.add_argument("output", metavar="OUT", help="a folder for the model, new or empty")
    parser.add_argument("--format", required=True, metavar="FORMAT", help=f"one of {', '.join(_FORMATS)}")
    parser.add_argument("--checkpoint", default="best", help="latest, best, a step, or average:N (default: best)")
    parser.add_argument("--quantization", help="of CTranslate2's weights: float32, float16, int8 (default: float32)")
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Exports as the arguments say, by default those of the process. Raises UserError for bad input."""
    parser = make_parser(prog)
    flags = parser.parse_args(arguments)
    if flags.format not in _FORMATS:
        parser.error(f"--format={flags.format} should be one of {', '.join(_FORMATS)}")
    if flags.quantization and flags.format != "ctranslate2":
        parser.error(f"--quantization is for --format=ctranslate2, not for {flags.format}; leave it out")
    program.set_up()
    if flags.format == "ctranslate2":
        from transformer_jax.cli.ctranslate2 import write_ctranslate2

        write_ctranslate2(flags.workdir, flags.output, flags.checkpoint, flags.quantization or "float32")
    else:
        from transformer_jax.cli.marian import write_hugging_face, write_marian

        write = write_marian if flags.format == "marian" else write_hugging_face
        write(flags.workdir, flags.output, flags.checkpoint)


if __name__ == "__main__":
    program.main(run)
