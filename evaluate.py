"""Scores checkpoints: python evaluate.py --workdir=runs/demo --test=demo:test

BLEU, chrF and TER by sacreBLEU, and ROUGE, each with its signature, over the whole of every test set. The run folder is all
it needs.
"""

from transformer_jax.cli.command_line import Parser, main, set_up


def run() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--workdir", required=True, help="the run folder that train.py made")
    parser.add_argument(
        "--test", required=True, nargs="+", metavar="SOURCE", help="demo:test, PREFIX (.en and .de), FILE.tsv, sacrebleu:wmt14"
    )
    parser.add_argument(
        "--checkpoint", nargs="+", help="one or more of latest, best, a step, average:N, each also with :raw (default: best)"
    )
    parser.add_argument("--tokenize", default="13a", help="BLEU's: 13a, intl, char, or none for text that is tokenised already")
    parser.add_argument("--lowercase", action="store_true", help="BLEU without regard to case")
    parser.add_argument(
        "--paper_bleu", action="store_true", help="BLEU also lower-cased, and on Moses tokens with compounds split (as in 2017)"
    )
    parser.add_argument("--rouge", action="store_true", help="ROUGE too, as without it where the run's train.metric is one")
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="resamples for the confidence intervals, 0: none (default: 1000)",
    )
    parser.add_argument(
        "--compare", metavar="RUN[:CHECKPOINT]", help="test the difference from another run, or a file of its translations"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write the translations here, those of several checkpoints and sets one after the other",
    )
    parser.add_argument("--report", metavar="FILE.json", help="write the scores and where they come from, as JSON or FILE.txt")
    parser.add_argument("--html", metavar="FILE.html", help="the same as a page for a browser, with every sentence")
    parser.add_argument("--alignment_layer", type=int, metavar="N", help="of the page, from 1 (default: as translate.py)")
    parser.add_argument("--watch", action="store_true", help="score each checkpoint of a training as it comes, in a line")
    parser.add_argument(
        "--watch_minutes", type=float, default=60, metavar="N", help="end after so long without a new one (default: 60)"
    )
    parser.add_ensemble()
    parser.add_search()
    parser.add_processes()
    flags = vars(parser.parse_args())
    set_up((flags.pop("coordinator"), flags.pop("processes"), flags.pop("process")))
    from transformer_jax.cli.evaluate import evaluate_run

    evaluate_run(**flags)


if __name__ == "__main__":
    main(run)
