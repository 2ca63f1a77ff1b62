"""Scores a checkpoint: python evaluate.py --workdir=runs/demo --test=demo:test

BLEU, chrF and TER by sacreBLEU, each with its signature, over the whole of every test set. The run folder is all it needs.
"""

from transformer_jax.command_line import Parser, main, set_up


def run() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--workdir", required=True, help="the run folder that train.py made")
    parser.add_argument(
        "--test", required=True, nargs="+", metavar="SOURCE", help="demo:test, PREFIX (.en and .de), FILE.tsv, sacrebleu:wmt14"
    )
    parser.add_argument(
        "--checkpoint", default="best", help="latest, best, a step, or average:N, each also with :raw (default: best)"
    )
    parser.add_argument("--tokenize", default="13a", help="BLEU's: 13a, intl, char, or none for text that is tokenised already")
    parser.add_argument("--lowercase", action="store_true", help="BLEU without regard to case")
    parser.add_argument(
        "--paper_bleu", action="store_true", help="BLEU also lower-cased, and on Moses tokens with compounds split (as in 2017)"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write the translations here, those of several test sets one after the other"
    )
    parser.add_argument("--report", metavar="FILE.json", help="write the scores here")
    parser.add_search()
    parser.add_processes()
    flags = vars(parser.parse_args())
    set_up(*(flags.pop(name) for name in ("coordinator", "processes", "process")))
    from transformer_jax.evaluation import evaluate_run
    from transformer_jax.hosts import is_first

    for report in evaluate_run(**flags):
        if is_first():
            print(report.as_text())


if __name__ == "__main__":
    main(run)
