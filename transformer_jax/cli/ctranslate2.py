"""A run folder to a CTranslate2 model: `transformer-jax export`, and `python -m transformer_jax.interop.ctranslate2`."""

from pathlib import Path

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser
from transformer_jax.interop import ctranslate2
from transformer_jax.interop.parameters import text_notes
from transformer_jax.runs.run_folder import Run


def run() -> None:
    parser = Parser(ctranslate2.__doc__.splitlines()[0])
    parser.add_argument("workdir", metavar="RUN", help="the run folder that train.py made")
    parser.add_argument("output", metavar="OUT", help="a folder for the model, new or empty")
    parser.add_argument("--checkpoint", default="best", help="latest, best, a step, or average:N (default: best)")
    parser.add_argument("--quantization", default="float32", help=f"of the weights: {', '.join(ctranslate2.QUANTIZATIONS)}")
    flags = parser.parse_args()
    program.set_up()
    write_ctranslate2(**vars(flags))


def write_ctranslate2(workdir: str, output: str, checkpoint: str, quantization: str) -> None:
    """As `interop.ctranslate2.export`, and prints what was written, and what it does not do with lines."""
    name = ctranslate2.export(workdir, output, checkpoint, quantization)
    megabytes = (Path(output) / "model.bin").stat().st_size / 1e6
    print(f"{output}: {name} of {workdir}, {quantization}, {megabytes:.1f} MB")
    made_of = Run(workdir)
    for note in text_notes(made_of.config, made_of.tokenizer().normalizes, f"the model in {output}/tokenizer"):
        print(f"note: {note}")
