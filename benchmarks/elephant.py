"""What "it" is: has its translation the right gender, and does the encoder's "it" look at the word it stands for?

    python benchmarks/elephant.py --workdir=runs/demo_full

Sentences are the demo grammar's held-out pairs, "The elephant did not cross the street because it was too tired / too wide" and
300 more like it: one adjective decides what "it" is, and so the German pronoun. The head of encoder self-attention is chosen on
the pronoun sentences of demo:dev. A model without self-attention has the accuracy alone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformer_jax.command_line import Parser, main
from transformer_jax.data import demo
from transformer_jax.data.batching import Shape, bucketed_batch
from transformer_jax.data.store import Store
from transformer_jax.models.seq2seq import attention_of
from transformer_jax.translator import Translator


class Probe(NamedTuple):
    sentences: int
    right: float  # share of pronouns with the right gender
    both_right: float  # share of pairs where both are
    head: tuple[int, int] | None = None  # layer and head, from 1, that is best on the dev set; None: no self-attention
    referent: float = 0.0  # share of the weight of "it", in that head, on the noun it stands for
    distractor: float = 0.0  # ... and on the other noun
    uniform: float = 0.0  # ... and on a noun, if "it" looked at all pieces of the sentence alike
    prefers: float = 0.0  # share of sentences where the referent gets more than the distractor


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="a run that was trained on the demo corpus")
    parser.add_argument("--checkpoint", default="best")
    flags = parser.parse_args()
    found = probe(Translator.load(flags.workdir, flags.checkpoint))
    print(f"{found.sentences} sentences: {found.right:.1%} of pronouns right, both of a pair {found.both_right:.1%}")
    if found.head:
        print(
            f'"it" in encoder layer {found.head[0]}, head {found.head[1]}: {found.referent:.1%} of its weight on the noun it '
            f"stands for, {found.distractor:.1%} on the other (looking everywhere alike: {found.uniform:.1%}); "
            f"more on the right one in {found.prefers:.1%} of sentences"
        )


def probe(translator: Translator) -> Probe:
    """Of a model of the demo corpus. Raises UserError as translating does."""
    pairs = demo.minimal_pairs()
    examples = [example for pair in pairs for example in pair]
    texts = [found.text for found in translator.translate([example.source for example in examples])]
    right = np.array(
        [demo.pronoun_accuracy([example], [text])[0] for example, text in zip(examples, texts, strict=True)]
    ).reshape(-1, 2)
    result = Probe(len(examples), right.mean(), right.all(axis=1).mean())
    dev = weight_of_it(translator, [example for example in demo.generate("dev") if example.pronoun])
    if dev is None:
        return result
    layer, head = np.unravel_index(dev[0].mean(axis=2).argmax(), dev[0].shape[:2])
    referent, distractor, uniform = (each[layer, head] for each in weight_of_it(translator, examples))
    return result._replace(
        head=(int(layer) + 1, int(head) + 1),
        referent=referent.mean(),
        distractor=distractor.mean(),
        uniform=uniform.mean(),
        prefers=(referent > distractor).mean(),
    )


def weight_of_it(translator: Translator, examples: Sequence[demo.Example]) -> np.ndarray | None:
    """The shares of the weight of "it" that fall on its referent, on the other noun, and on a noun if all pieces had the same:
    float [3, L, H, examples]. None for a model without encoder self-attention."""
    tokenizer = translator.tokenizer
    rows = tokenizer.encode_source([example.source for example in examples])
    shape = Shape(len(rows), max(map(len, rows)), 1)
    store = Store.of(rows, [np.array([tokenizer.eos_id])] * len(rows))
    batch = bucketed_batch(store, np.arange(len(rows)), shape, tokenizer.pad_id, tokenizer.decoder_start_id)

    @jax.jit
    def look(params):
        _, sown = translator.model.apply({"params": params}, batch, train=False, mutable=["intermediates"])
        return attention_of(sown.get("intermediates", {})).get("encoder")

    weights = look(translator.params)  # [L, examples, H, S, S]
    if weights is None:
        return None
    weights, found = np.asarray(weights), []
    for number, (example, row) in enumerate(zip(examples, rows, strict=True)):
        word, pronoun = tokenizer.words(row), example.pronoun
        of_it = weights[:, number][:, :, np.flatnonzero(word == pronoun.source), : len(row)].mean(axis=2)  # [L, H, S]
        nouns = [word == place for place in (pronoun.referent, pronoun.distractor)]
        uniform = np.full(of_it.shape[:2], np.mean(nouns))
        found.append([*(of_it[:, :, noun].sum(axis=2) for noun in nouns), uniform])
    return np.moveaxis(np.array(found), 0, -1)


if __name__ == "__main__":
    main(run)
