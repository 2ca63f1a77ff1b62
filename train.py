"""Trains a translation model: python train.py --config=configs/demo.py --workdir=runs/demo

Any field of the config can be set: --config.model.num_layers=2. The same command again continues the run. Exit codes: 0
trained to the end, 2 bad input, 75 stopped by SIGTERM or Ctrl-C, or by the loss of another process, and to be continued.
"""

from transformer_jax.cli.config_files import load_config
from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main, report_to_all, set_up


def run() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--config", required=True, help="a file with get_config(), as in configs/, or a run's config.json")
    parser.add_argument("--workdir", required=True, help="the run folder: config, tokenizer, checkpoints, metrics")
    parser.add_processes()
    flags, overrides = parser.parse_with_overrides()
    processes = flags.coordinator, flags.processes, flags.process
    with report_to_all(processes):
        config = load_config(flags.config, overrides)
    set_up(processes)
    from transformer_jax.training.loop import train

    train(config, flags.workdir)


if __name__ == "__main__":
    main(run)
