"""Scores checkpoints: python evaluate.py --workdir=runs/demo --test=demo:test

BLEU, chrF and TER by sacreBLEU, and ROUGE, each with its signature, over the whole of every test set. The run folder is all
it needs.
"""

from transformer_jax.cli.evaluation_job import EvaluationJob
from transformer_jax.cli.parser import Parser, job_of
from transformer_jax.cli.program import main, set_up


def run() -> None:
    parser = Parser(__doc__)
    parser.add_job(EvaluationJob)
    parser.add_ensemble()
    parser.add_search()
    parser.add_processes()
    flags = vars(parser.parse_args())
    set_up((flags.pop("coordinator"), flags.pop("processes"), flags.pop("process")))
    from transformer_jax.cli.evaluate import evaluate_run

    evaluate_run(job_of(EvaluationJob, flags))


if __name__ == "__main__":
    main(run)
