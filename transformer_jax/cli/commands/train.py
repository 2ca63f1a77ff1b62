"""Trains a translation model.

    transformer-jax train --config=demo --workdir=runs/demo
    transformer-jax train --config=mine.py --workdir=runs/mine --config.data.train=data/train --config.data.dev=data/dev

Any field of the config can be set: --config.model.num_layers=2. The same command again continues the run. Exit codes: 0
trained to the end, 2 bad input, 75 stopped by SIGTERM or Ctrl-C, or by the loss of another process, and to be continued.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.parser import Parser

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command; overrides of the config are not among them."""
    parser = Parser(__doc__, prog)
    parser.add_argument("--config", required=True, help="a recipe's name, a file with get_config(), or a run's config.json")
    parser.add_argument("--workdir", required=True, help="the run folder: config, tokenizer, checkpoints, metrics")
    parser.add_processes()
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Trains as the arguments say, by default those of the process. Raises UserError for bad input."""
    flags, overrides = make_parser(prog).parse_with_overrides(arguments)
    processes = flags.coordinator, flags.processes, flags.process
    with program.report_to_all(processes):
        config = load_config(flags.config, overrides)
    program.set_up(processes)
    from transformer_jax.training.loop import train

    train(config, flags.workdir)


if __name__ == "__main__":
    program.main(run)
