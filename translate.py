"""Translates: python translate.py --workdir=runs/demo "The dog sleeps."     or     ... < english.txt > german.txt

N lines in, N lines out, in their order; an empty line stays empty. A line is one sentence, or --split_sentences=always.
"""

from transformer_jax.cli.command_line import Parser, main, set_up


def run() -> None:
    parser = Parser(__doc__)
    parser.add_argument("text", nargs="*", help="sentences, a translation each (default: the lines of --input)")
    parser.add_argument("--workdir", required=True, help="the run folder that train.py made")
    parser.add_argument(
        "--checkpoint", default="best", help="latest, best, a step, or average:N, each also with :raw (default: best)"
    )
    parser.add_argument("--input", metavar="FILE", help="a file to translate, plain or .gz (default: -, standard input)")
    parser.add_argument("--output", metavar="FILE", help="where the translations go, also .gz (default: -, standard output)")
    parser.add_argument("--errors", default="strict", help="input that is not UTF-8: strict (an error), or replace by U+FFFD")
    parser.add_argument("--format", default="text", help="of the output: text, tsv, or json (an object a line)")
    parser.add_argument("--nbest", type=int, metavar="N", help="the N best of each line, or N that are drawn (tsv and json)")
    parser.add_argument("--prefixes", metavar="FILE", help="what each line's translation begins with, in whole words")
    parser.add_argument("--complete_words", action="store_true", help="the last word of --prefixes may be unfinished")
    parser.add_argument(
        "--phrases",
        metavar="FILE",
        help="what must occur in each line's translation, separated by tabs; where it does not by itself, the beam is wider "
        "than the phrases have tokens (or 128)",
    )
    parser.add_argument("--phrase_ends", help="of phrases and terms: word (default), or anywhere (letters may follow)")
    parser.add_argument("--terminology", metavar="FILE", help="lines of a term, a tab and what must translate it, as it is")
    parser.add_argument(
        "--terminology_case", default="start", help="of terms: exact, start (or capital at a sentence's start), ignore"
    )
    parser.add_argument("--score", metavar="FILE", help="translate nothing, but score the translations in FILE, a line each")
    parser.add_argument(
        "--batch_size", type=int, default=1000, help="lines read before they are translated together (default: 1000)"
    )
    parser.add_argument(
        "--attention",
        metavar="FILE",
        help="a picture (.png, .pdf, .svg) or page (.html) of what the first line's looked at",
    )
    parser.add_argument("--attention_kind", default="cross", help="cross, or a Transformer's encoder, decoder (default: cross)")
    parser.add_argument("--attention_layer", type=int, default=0, metavar="N", help="from 1 (default: the mean of all)")
    parser.add_argument("--attention_head", type=int, default=0, metavar="N", help="from 1 (default: the mean of all)")
    parser.add_argument("--attention_words", action="store_true", help="a picture of words, not of the tokenizer's pieces")
    parser.add_argument("--alignments", metavar="FILE", help="which word became which: a line like 0-0 1-2 for each line")
    parser.add_argument("--alignment_layer", type=int, metavar="N", help="from 1 (default: the best on the dev set, or here)")
    parser.add_ensemble()
    parser.add_search()
    flags = vars(parser.parse_args())
    set_up()
    from transformer_jax.cli.translate import translate_lines

    translate_lines(**flags)


if __name__ == "__main__":
    main(run)
