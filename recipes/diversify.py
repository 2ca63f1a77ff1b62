"""Data diversification: models of both directions translate the training text, and all of it together trains the final model
(Nguyen et al. 2020, https://arxiv.org/abs/1911.01986).

    python recipes/diversify.py --config=multi30k --workdir=runs/diverse --models=3 \
        --config.data.train=data/train --config.data.dev=data/val

Its stages, each in `--workdir`, for every number from 0 to `--models` - 1, which is added to the seed:

1. `forward_0`, `backward_0`: models of data.train, of both directions
2. `text`: the sources and targets of data.train
3. `forward_0.tsv`: the sources with the forward model's translations; `backward_0.tsv`: the backward model's translations with
   the targets (the search of the flags, by default the config's)
4. `final`: a model of data.train and all of these. A pair that several have counts once, where it comes first

No other text is needed. The final model costs 2 N further trainings and translations of the text, and has up to 2 N + 1
times the pairs: give it more updates with --final_steps. After a stop of whatever kind the same command goes on.
"""

from argparse import Namespace

from transformer_jax import UserError
from transformer_jax.cli.workflow import Workflow, line_pairs, main, make_parser, source


def parser():
    flags = make_parser(__doc__)
    flags.add_argument("--models", type=int, default=1, metavar="N", help="of each direction (default: 1; the paper: 3)")
    flags.add_argument("--final_steps", type=int, metavar="N", help="updates of the final training (default: as the others)")
    return flags


def diversify(flow: Workflow, flags: Namespace) -> None:
    if flags.models < 1:
        raise UserError(f"--models={flags.models} should be 1 or more")
    sources, targets = flow.text()
    texts = [flow.train_text]
    for number in range(flags.models):
        seed = f"train.seed={flow.config.train.seed + number}"
        forward = flow.train(f"forward_{number}", overrides=[seed])
        backward = flow.train(f"backward_{number}", swap=True, overrides=[seed])
        translations = flow.translate(f"forward_{number}.targets", [forward], sources)
        back = flow.translate(f"backward_{number}.sources", [backward], targets)
        texts.append(source(flow.write_pairs(f"forward_{number}", lambda new=translations: line_pairs(sources, new))))
        texts.append(source(flow.write_pairs(f"backward_{number}", lambda new=back: line_pairs(new, targets))))
    steps = [f"train.steps={flags.final_steps}"] if flags.final_steps else []
    flow.train("final", ", ".join(texts), overrides=steps)


if __name__ == "__main__":
    main(diversify, parser())
