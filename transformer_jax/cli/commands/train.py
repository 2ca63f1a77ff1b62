"""Trains a translation model.

    transformer-jax train --config=demo --workdir=runs/demo
    transformer-jax train --config=own_text --workdir=runs/mine --config.data.train=data/train --config.data.dev=data/dev
    transformer-jax train --config=demo --config.model.num_layers=3 --print_config

Any field of the config can be set: --config.model.num_layers=2. The same command again continues the run. Exit codes: 0
trained to the end, 2 bad input, 75 stopped by SIGTERM or Ctrl-C, or by the loss of another process, and to be continued.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.config_files import ConfigFile
from transformer_jax.cli.parser import Parser
from transformer_jax.config import sections, to_json
from transformer_jax.errors import UserError

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command; overrides of the config are not among them."""
    parser = Parser(__doc__, prog)
    parser.epilog = f"All keys: --config=demo --print_config. What each means:\n\n    {sections.__file__}"
    parser.add_argument("--config", help="a recipe's name, a file with get_config(), or a run's config.json")
    parser.add_argument("--workdir", help="the run folder: config, tokenizer, checkpoints, metrics")
    parser.add_argument(
        "--extend",
        action="store_true",
        help="let a run with a cosine schedule go on to more --config.train.steps: its learning rate rises to that of the "
        "longer schedule, and falls once more",
    )
    parser.add_argument("--profile", metavar="FROM:TO", help="trace these updates with JAX's profiler, into WORKDIR/profile")
    parser.add_argument("--print_config", action="store_true", help="print the config as JSON and train nothing")
    parser.add_processes()
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Trains as the arguments say, by default those of the process. Raises UserError for bad input."""
    parser = make_parser(prog)
    flags, overrides = parser.parse_with_overrides(arguments)
    needed = {"--config": flags.config, "--workdir": flags.workdir or flags.print_config}
    missing = ", ".join(name for name, value in needed.items() if not value)
    if missing:
        parser.error(f"the following arguments are required: {missing}")
    profile = _updates(flags.profile) if flags.profile else None
    processes = flags.coordinator, flags.processes, flags.process
    with program.report_to_all(processes):
        file = ConfigFile(flags.config)
        config = None if file.by_size else file.config(overrides)
    if file.by_size or not flags.print_config:
        program.set_up(None if flags.print_config else processes, trains=True)
    if config is None:
        from transformer_jax.cli.config_by_size import config_by_size

        config = config_by_size(file, overrides, flags.workdir)
    if flags.print_config:
        print(to_json(config), end="")
        return
    from transformer_jax.training.loop import train

    train(config, flags.workdir, flags.extend, name=flags.config, profile=profile)


def _updates(text: str) -> tuple[int, int]:
    """
    >>> _updates("100:104")
    (100, 104)
    """
    first, separator, last = text.partition(":")
    if not (separator and first.isdecimal() and last.isdecimal()):
        raise UserError(f"--profile={text}: expected FROM:TO, the first and the last update to trace, such as 100:104")
    return int(first), int(last)


if __name__ == "__main__":
    program.main(run)
