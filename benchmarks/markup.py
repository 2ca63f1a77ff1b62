"""Is a tag around one word around the translation of that word?

    python benchmarks/markup.py --workdir=runs/demo

Translates demo:test, whose true word alignments the built-in grammar knows. Every word of each source whose translation is the
reference gets a tag of its own; it is right if it is then around words of the translation that are linked to the word, and
around no others. Tells the share of words that are right, and the words that are most often wrong.
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main, set_up


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--checkpoint", default="best")
    flags = parser.parse_args()
    set_up()
    from transformer_jax import Translator
    from transformer_jax.data import demo
    from transformer_jax.inference.markup.projection import Mark, project, words_of

    translator, examples = Translator.load(flags.workdir, flags.checkpoint), demo.generate("test")
    translations = translator.translate([example.source for example in examples], align="complete")
    words, wrong, sentences = 0, Counter(), 0
    for example, translation in zip(examples, translations, strict=True):
        if translation.text != example.target:
            continue
        sentences += 1
        right = defaultdict(set)
        for i, j in example.alignment:
            right[i].add(j)
        for i, word in enumerate(words_of(example.source)):
            (place,) = project(example.source, [Mark("b", *word.core)], example.target, translation.alignment)
            inside = {
                j
                for j, other in enumerate(words_of(example.target))
                if other.core[0] < place.end and place.start < other.core[1]
            }
            words += 1
            if not inside or not inside <= right[i]:
                wrong[example.source[slice(*word.core)].lower()] += 1
    share = f"{1 - wrong.total() / words:.1%}" if words else "none"
    print(
        f"{sentences} of {len(examples)} sentences are translated as the reference; {share} of their {words:,} words are right"
    )
    print("most often wrong: " + ", ".join(f"{word} ({count})" for word, count in wrong.most_common(10)))


if __name__ == "__main__":
    main(run)
