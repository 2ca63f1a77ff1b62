"""What `python -m transformer_jax.interop.ctranslate2` does: a run folder to a CTranslate2 model."""

from pathlib import Path

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import set_up
from transformer_jax.interop import ctranslate2


def run() -> None:
    parser = Parser(ctranslate2.__doc__.splitlines()[0])
    parser.add_argument("workdir", metavar="RUN", help="the run folder that train.py made")
    parser.add_argument("output", metavar="OUT", help="a folder for the model, new or empty")
    parser.add_argument("--checkpoint", default="best", help="latest, best, a step, or average:N (default: best)")
    parser.add_argument("--quantization", default="float32", help=f"of the weights: {', '.join(ctranslate2.QUANTIZATIONS)}")
    flags = parser.parse_args()
    set_up()
    name = ctranslate2.export(**vars(flags))
    megabytes = (Path(flags.output) / "model.bin").stat().st_size / 1e6
    print(f"{flags.output}: {name} of {flags.workdir}, {flags.quantization}, {megabytes:.1f} MB")
