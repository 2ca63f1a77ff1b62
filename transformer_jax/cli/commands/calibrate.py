"""Calibrates a run's confidence on a dev set: how good are translations of which it is so sure?

    transformer-jax calibrate --workdir=runs/demo
    transformer-jax calibrate --workdir=runs/demo --dev=data/dev --beam=5

Writes RUN/confidence.json. From then on translate.py's JSON has a `confidence` from 0 to 1, --min_confidence can be asked for,
and evaluate.py's reports say how reliable it is.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser, job_of

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command."""
    from transformer_jax.cli.calibration_job import CalibrationJob

    parser = Parser(__doc__, prog)
    parser.add_job(CalibrationJob)
    parser.add_search()
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Calibrates as the arguments say, by default those of the process. Raises UserError for bad input."""
    flags = vars(make_parser(prog).parse_args(arguments))
    program.set_up()
    from transformer_jax.cli.calibrate import calibrate_run
    from transformer_jax.cli.calibration_job import CalibrationJob

    calibrate_run(job_of(CalibrationJob, flags))


if __name__ == "__main__":
    program.main(run)
