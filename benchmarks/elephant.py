"""Pronoun resolution: does the translation of "it" have the right gender, and which attention goes to its referent?

    python benchmarks/elephant.py --workdir=runs/demo_full

Sentences are the demo grammar's held-out pairs, "The elephant did not cross the street because it was too tired / too wide" and
300 similar ones: one adjective decides what "it" stands for, and so the German pronoun. The attention of three words is
measured: "it" and the adjective in encoder self-attention, and the German pronoun (of the reference) in the attention to the
source; each in the head with the largest margin of the right noun over the other on the pronoun sentences of demo:dev.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main, set_up
from transformer_jax.data import demo
from transformer_jax.data.batching import Shape, bucketed_batch
from transformer_jax.data.store import Store
from transformer_jax.inference.translator import Translator
from transformer_jax.models.attention_weights import attention_of


class Look(NamedTuple):
    """The attention of a word, in its best head."""

    layer: int  # from 1
    head: int
    referent: float  # share of its weight on the noun that "it" stands for
    distractor: float  # ... and on the other noun
    uniform: float  # ... and on a noun if all pieces of the sentence had equal weight
    prefers: float  # share of sentences where the referent gets more than the distractor


class Probe(NamedTuple):
    sentences: int
    right: float  # share of pronouns with the right gender
    both_right: float  # share of pairs where both are
    looks: dict[str, Look]  # of the words in `LOOKERS` for which the model has attention weights


LOOKERS = {'"it"': "encoder", "the adjective": "encoder", "the German pronoun": "cross"}


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="a run that was trained on the demo corpus")
    parser.add_argument("--checkpoint", default="best")
    flags = parser.parse_args()
    set_up()
    found = probe(Translator.load(flags.workdir, flags.checkpoint))
    print(f"{found.sentences} sentences: {found.right:.1%} of pronouns right, both of a pair {found.both_right:.1%}")
    for word, look in found.looks.items():
        print(
            f"{word}, {LOOKERS[word]} attention, layer {look.layer}, head {look.head}: {look.referent:.1%} of its weight on "
            f"the right noun, {look.distractor:.1%} on the other (looking everywhere alike: {look.uniform:.1%}); more on the "
            f"right one in {look.prefers:.1%} of sentences"
        )


def probe(translator: Translator) -> Probe:
    """Of a model of the demo corpus. Raises UserError as translating does."""
    pairs = demo.minimal_pairs()
    examples = [example for pair in pairs for example in pair]
    texts = [found.text for found in translator.translate([example.source for example in examples])]
    right = np.array(
        [demo.pronoun_accuracy([example], [text])[0] for example, text in zip(examples, texts, strict=True)]
    ).reshape(-1, 2)
    looks = {}
    on_dev = weights_on_nouns(translator, [example for example in demo.generate("dev") if example.pronoun])
    on_test = weights_on_nouns(translator, examples) if on_dev else {}
    for word, weights in on_dev.items():
        advantage = (weights[0] - weights[1]).mean(axis=2)
        layer, head = np.unravel_index(advantage.argmax(), advantage.shape)
        referent, distractor, uniform = (each[layer, head] for each in on_test[word])
        means = (float(each.mean()) for each in (referent, distractor, uniform, referent > distractor))
        looks[word] = Look(int(layer) + 1, int(head) + 1, *means)
    return Probe(len(examples), right.mean(), right.all(axis=1).mean(), looks)


def weights_on_nouns(translator: Translator, examples: Sequence[demo.Example]) -> dict[str, np.ndarray]:
    """For each word of `LOOKERS` with attention weights: the shares of its weight on the right noun, on the other, and on a
    noun if all pieces had the same, float [3, L, H, examples]."""
    tokenizer = translator.tokenizer
    sources = tokenizer.encode_source([example.source for example in examples])
    targets = tokenizer.encode_target([example.target for example in examples])
    shape = Shape(len(examples), max(map(len, sources)), max(map(len, targets)))
    store = Store.of(sources, targets)
    batch = bucketed_batch(store, np.arange(len(examples)), shape, tokenizer.pad_id, tokenizer.decoder_start_id)

    @jax.jit
    def look(params):
        _, sown = translator.model.apply({"params": params}, batch, train=False, mutable=["intermediates"])
        return attention_of(sown.get("intermediates", {}))

    weights = {kind: np.asarray(array) for kind, array in look(translator.params).items()}  # [L, examples, H, queries, S]
    found = {word: [] for word, kind in LOOKERS.items() if kind in weights}
    for number, (example, source, target) in enumerate(zip(examples, sources, targets, strict=True)):
        of_source, of_target, pronoun = tokenizer.words(source), tokenizer.words(target), example.pronoun
        # The adjective that decides is the last word of each sentence.
        asked = (of_source == pronoun.source, of_source == of_source.max(), of_target == pronoun.target)
        nouns = [of_source == place for place in (pronoun.referent, pronoun.distractor)]
        for (word, kind), pieces in zip(LOOKERS.items(), asked, strict=True):
            if kind in weights:
                of_word = weights[kind][:, number][:, :, np.flatnonzero(pieces), : len(source)].mean(axis=2)  # [L, H, S]
                shares = [of_word[:, :, noun].sum(axis=2) for noun in nouns]
                found[word].append([*shares, np.full(of_word.shape[:2], np.mean(nouns))])
    return {word: np.moveaxis(np.array(values), 0, -1) for word, values in found.items()}


if __name__ == "__main__":
    main(run)
