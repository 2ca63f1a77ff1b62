"""Distillation: a student that is quick to decode learns from the translations of a slower teacher (Kim and Rush 2016).

    python recipes/distillation.py --config=multi30k --workdir=runs/distil --teachers=2 --best_of=8 \
        --config.data.train=data/train --config.data.dev=data/val

Its stages, each in `--workdir`:

1. `teacher_0`, `teacher_1`, ...: models of the config with seeds one after the other, which translate as an ensemble; or those
   of `--teacher`, of one tokenizer
2. `text`: the sources and targets of data.train
3. `distilled`: the teachers' translations of the sources; with `--best_of=N` the N best of each, of which the one that is
   most like the reference stays, by sentence BLEU or chrF (as in Mozilla's pipeline)
4. `student`: a model of the same config, but for its layers, trained on these pairs and, with `--original=W`, on those of
   data.train, W times as often. A deep encoder and a shallow decoder keep what is parallel and shorten what is not (Kasai et
   al. 2021): `--student_layers`, `--student_decoder_layers`, `--student_autoregression`

After a stop of whatever kind the same command goes on.
"""

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import sacrebleu

from transformer_jax import UserError
from transformer_jax.cli.workflow import Workflow, line_pairs, main, make_parser, source

METRICS = {"bleu": sacrebleu.sentence_bleu, "chrf": sacrebleu.sentence_chrf}


def parser():
    flags = make_parser(__doc__)
    flags.add_argument("--teacher", nargs="+", metavar="RUN[:CHECKPOINT]", help="trained teachers (default: some are trained)")
    flags.add_argument("--teachers", type=int, default=1, metavar="N", help="how many are trained (default: 1)")
    flags.add_argument("--best_of", type=int, default=1, metavar="N", help="candidates of each sentence (default: 1)")
    flags.add_argument("--metric", default="bleu", help="by which the best of them is chosen: bleu (default) or chrf")
    flags.add_argument("--original", type=float, default=0.0, metavar="W", help="weight of data.train itself (default: 0)")
    flags.add_argument("--student_layers", type=int, default=0, metavar="L", help="of its encoder (default: the config's)")
    flags.add_argument("--student_decoder_layers", type=int, default=1, metavar="L", help="not of an LSTM (default: 1)")
    flags.add_argument("--student_autoregression", default="", metavar="KIND", help="attention or ssru (default: the config's)")
    return flags


def best_candidates(candidates: Path, sources: Path, targets: Path, metric: str) -> Iterator[tuple[str, str]]:
    """Each source with the candidate that is most like its target; of equal ones the first, which the teacher likes best."""
    for (line, reference), (text, _) in zip(line_pairs(candidates, targets), line_pairs(sources, targets), strict=True):
        texts = [candidate["text"] for candidate in json.loads(line)["translations"]]
        yield text, max(texts, key=lambda hypothesis: METRICS[metric](hypothesis, [reference]).score)


def distillation(flow: Workflow, flags: Namespace) -> None:
    if flags.metric not in METRICS:
        raise UserError(f"--metric={flags.metric} should be one of {', '.join(METRICS)}")
    if min(flags.best_of, flags.teachers) < 1 or flags.original < 0:
        raise UserError("--best_of and --teachers should be 1 or more, --original 0 or more")
    seeds = [flow.config.train.seed + number for number in range(flags.teachers)]
    trained = (flow.train(f"teacher_{i}", overrides=[f"train.seed={seed}"]) for i, seed in enumerate(seeds))
    teachers = flags.teacher or list(trained)
    sources, targets = flow.text()
    if flags.best_of > 1:
        candidates = flow.translate("candidates", teachers, sources, nbest=flags.best_of)
        best = lambda: best_candidates(candidates, sources, targets, flags.metric)  # noqa: E731
        pairs = flow.write_pairs("distilled", best, flags.metric)
    else:
        translations = flow.translate("translations", teachers, sources)
        pairs = flow.write_pairs("distilled", lambda: line_pairs(sources, translations))
    layers = [f"model.num_layers={flags.student_layers or flow.config.model.num_layers}"]
    if flow.config.model.family == "transformer":
        layers.append(f"model.decoder_layers={flags.student_decoder_layers}")
        layers.append(f"model.autoregression={flags.student_autoregression or flow.config.model.autoregression}")
    # A weight of 1 / W beside all of data.train is the same mixture as 1 beside W times data.train.
    text = f"{flow.train_text}, {source(pairs, 1 / flags.original)}" if flags.original else source(pairs)
    flow.train("student", text, overrides=layers)


if __name__ == "__main__":
    main(distillation, parser())
