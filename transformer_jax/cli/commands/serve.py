"""Serves models: to clients of LibreTranslate and of DeepL, and on a page.

    transformer-jax serve --workdir=runs/demo
    transformer-jax serve --workdir en-de=runs/there de-en=runs/back --api_keys=keys.txt --host=0.0.0.0

The page is at http://127.0.0.1:5000. Whatever comes at the same time is translated together, and every translation is the one
that translate.py gives. SIGTERM: requests that are under way are answered, then it ends with code 0.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.parser import Parser, job_of
from transformer_jax.cli.serving_job import ServingJob

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command."""
    parser = Parser(__doc__, prog)
    parser.add_job(ServingJob)
    parser.add_search()
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Serves as the arguments say, by default those of the process. Raises UserError for bad input."""
    job = job_of(ServingJob, vars(make_parser(prog).parse_args(arguments)))
    program.set_up()
    from transformer_jax.cli.serve import serve_models

    serve_models(job)


if __name__ == "__main__":
    program.main(run)
