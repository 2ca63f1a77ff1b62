"""Scores sentence pairs by models of both directions, for training text that is mined or translated: a number a line.

    transformer-jax score_pairs mined/web --forward=runs/en_de --backward=runs/de_en --output=mined/web.scores
    transformer-jax score_pairs "mined/web.tsv (columns=3,1)" --backward=runs/de_en --output=web.scores

A number is between 0 and 1, higher for better pairs: dual conditional cross-entropy (Junczys-Dowmunt 2018), or with one model
its probability of a token in the geometric mean. Training then takes --config.data.train="mined/web (scores=mined/web.scores
min_score=0.1)"; the last lines here say which number keeps how many pairs.

After SIGTERM or Ctrl-C (exit code 75), a kill or a crash the same command goes on, and the file is the same in the end.
"""

from collections.abc import Sequence

from transformer_jax.cli import program
from transformer_jax.cli.pair_scoring_job import PairScoringJob
from transformer_jax.cli.parser import Parser

__all__ = ["make_parser", "run"]


def make_parser(prog: str | None = None) -> Parser:
    """The flags of the command."""
    parser = Parser(__doc__, prog)
    parser.add_job(PairScoringJob)
    return parser


def run(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Scores as the arguments say, by default those of the process. Raises UserError for bad input."""
    job = PairScoringJob(**vars(make_parser(prog).parse_args(arguments)))
    program.set_up()
    from transformer_jax.cli.pair_scoring import score_file

    score_file(job)


if __name__ == "__main__":
    program.main(run)
