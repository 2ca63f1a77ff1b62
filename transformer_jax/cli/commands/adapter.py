"""Writes a run's adapters alone, or merges adapters into a copy of the run that they were trained on.

    transformer-jax adapter runs/tuned tuned_adapter
    transformer-jax adapter runs/base runs/merged --merge tuned_adapter

The folder of a run's adapters (`train.lora_rank`) has what was trained and no more, and the checksum of the parameters that it
belongs to. Merged into them it makes a run folder without optimizer state, which translates, is scored and exported like any.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command."""
    parser = Parser(__doc__, prog)
    parser.add_argument(
        "workdir", metavar="RUN", help="a run with adapters; with --merge, whose they are: RUN or RUN:CHECKPOINT"
    )
    parser.add_argument("output", metavar="OUT", help="the folder to write, new or empty")
    parser.add_argument("--merge", metavar="FOLDER", help="a folder of adapters, to merge into RUN")
    parser.add_argument("--checkpoint", help="whose adapters: best, latest or a step, also with :raw (default: best)")
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Writes the folder that the arguments describe, by default those of the process. Raises UserError for bad input."""
    parser = make_parser(prog)
    flags = parser.parse_args(arguments)
    if flags.merge is not None and flags.checkpoint is not None:
        parser.error("--checkpoint: name the checkpoint with the run, RUN:CHECKPOINT, to merge into it")
    program.set_up()
    from transformer_jax.interop.adapter_files import merge_adapter, save_adapter

    if flags.merge is not None:
        described = merge_adapter(flags.workdir, flags.merge, flags.output)
        print(f"{flags.output}: {described} of {flags.workdir}, with the adapters of {flags.merge}")
    else:
        described = save_adapter(flags.workdir, flags.output, flags.checkpoint or "best")
        print(f"{flags.output}: the adapters of {flags.workdir}, {described}")


if __name__ == "__main__":
    program.main(run)
