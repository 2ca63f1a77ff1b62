"""Back-translation: text of the target language alone becomes training text, by a model of the other direction.

    python recipes/back_translation.py --config=multi30k --workdir=runs/bt --monolingual=german.txt \
        --config.data.train=data/train --config.data.dev=data/val

Its stages, each in `--workdir`:

1. `reverse`: a model from target to source, trained on the same pairs with their sides exchanged; or the run of `--reverse`
2. `synthetic`: it translates the lines of `--monolingual`, by beam search, or drawn: --temperature=1 (Edunov et al. 2018), with
   --top_k=10, --top_p=0.9 or --epsilon=0.02 if need be
3. `synthetic.tsv`: pairs of these with the original lines as targets (Sennrich et al. 2016)
4. `final`: a model of both. Synthetic sources begin with `--tag`, so that the model can tell them apart (Caswell et al. 2019);
   `--filters` are options of a source of data.train. Each epoch has as many synthetic pairs as real ones, or, if there are
   fewer, all of them; with `--ratio` so many for each real one.

After a stop of whatever kind the same command goes on.
"""

from argparse import Namespace

from transformer_jax.cli.workflow import Workflow, line_pairs, main, make_parser, source


def parser():
    flags = make_parser(__doc__)
    flags.add_argument("--monolingual", required=True, metavar="FILE", help="lines of the target language, plain or .gz")
    flags.add_argument("--reverse", metavar="RUN[:CHECKPOINT]", help="a model of the other direction (default: one is trained)")
    flags.add_argument("--tag", default="<bt>", help="the word before each synthetic source (default: <bt>; empty: none)")
    flags.add_argument("--filters", default="max_ratio=3", help="options of the synthetic pairs (default: max_ratio=3)")
    flags.add_argument("--ratio", type=float, default=1.0, help="of synthetic to real pairs in an epoch, at most (default: 1)")
    return flags


def back_translation(flow: Workflow, flags: Namespace) -> None:
    reverse = flags.reverse or flow.train("reverse", swap=True)
    translations = flow.translate("synthetic", [reverse], flags.monolingual)
    pairs = flow.write_pairs("synthetic", lambda: line_pairs(translations, flags.monolingual))
    weight = min(1.0, flags.ratio * flow.pairs_of(flow.train_text) / flow.pairs_of(source(pairs)))
    options = f"tag={flags.tag} {flags.filters}" if flags.tag else flags.filters
    flow.train("final", f"{flow.train_text}, {source(pairs, weight, options)}")


if __name__ == "__main__":
    main(back_translation, parser())
