"""Scores checkpoints: BLEU, chrF and TER by sacreBLEU, and ROUGE, each with its signature.

    transformer-jax evaluate --workdir=runs/demo --test=demo:test
    transformer-jax evaluate --workdir=runs/demo --test demo:test demo:long --checkpoint best average:3

Every line of every test set counts. The run folder is all that is needed.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.evaluation_job import EvaluationJob
from transformer_jax.cli.parser import Parser, job_of

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command."""
    parser = Parser(__doc__, prog)
    parser.add_job(EvaluationJob)
    parser.add_ensemble()
    parser.add_search()
    parser.add_processes()
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Scores as the arguments say, by default those of the process. Raises UserError for bad input."""
    flags = vars(make_parser(prog).parse_args(arguments))
    program.set_up((flags.pop("coordinator"), flags.pop("processes"), flags.pop("process")))
    from transformer_jax.cli.evaluate import evaluate_run

    job = job_of(EvaluationJob, flags)
    with program.told_compilations(job.verbose):
        evaluate_run(job)


if __name__ == "__main__":
    program.main(run)
