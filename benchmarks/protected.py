"""Do URLs, addresses, numbers and placeholders come out of a translation as they went in?

    python benchmarks/protected.py --workdir=runs/multi30k --test MULTI30K/val

Into each line of the test set one span is put: a URL, a mail address, a number or a placeholder, at the beginning, between two
words or at the end. Tells the share of spans that are in the translation exactly once, how many of those at the beginning and
at the end stay there, and the BLEU of the rest (the translation without its spans against the reference), of these ways: the
text as it is; for a run that was trained with placeholders these in place of the spans, first with nothing that constrains the
search, then as such a run translates a text that has them, each at most once; and --protect. Then the BLEU of the test set
without spans.
"""

import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main, set_up

PROTECTED = "url,email,number,placeholder"
POSITIONS = ("start", "inside", "end")
WORDS = "archive booking contact details form gallery help index map news order press report shop terms week".split()


class Marked(NamedTuple):
    """A line with a span in it."""

    text: str
    span: str
    kind: str
    position: str


def make_span(kind: str, draw: random.Random) -> str:
    """A span of this kind."""
    word, other = draw.sample(WORDS, 2)
    number = draw.randrange(100, 100_000)
    forms = {
        "url": [f"https://{word}.example.org/{other}?id={number}", f"http://www.{word}-{other}.example/a_{number}.html"],
        "email": [f"{word}.{other}@example.org", f"{word}{number}@mail.{other}.example"],
        "number": [f"{number:,}", f"{number / 100:,.2f}", str(number), f"{draw.randrange(24):02}:{draw.randrange(60):02}"],
        "placeholder": [
            f"{{{word}}}",
            f"{{{{{word}.{other}}}}}",
            "%s",
            f"%({word})d",
            f"${draw.randrange(1, 9)}",
            f'<x id="{number}"/>',
        ],
    }
    return draw.choice(forms[kind])


def mark(lines: Sequence[str], seed: int = 0) -> list[Marked]:
    """Each line with a span; kinds and positions take turns."""
    draw, marked = random.Random(seed), []
    for number, line in enumerate(lines):
        kind = PROTECTED.split(",")[number % 4]
        position, span = POSITIONS[number // 4 % 3], make_span(kind, draw)
        words = line.split()
        if position == "start":
            text = f"{span} {line.strip()}"
        elif position == "end":
            body = line.strip()
            end = len(body.rstrip(".!?"))
            text = f"{body[:end]} {span}{body[end:]}"
        else:
            at = draw.randrange(1, max(len(words), 2))
            text = " ".join([*words[:at], span, *words[at:]])
        marked.append(Marked(text, span, kind, position))
    return marked


def bleu_of(texts: Sequence[str], references: Sequence[str]) -> float:
    from transformer_jax.evaluation.metrics import score

    return score(texts, references)[0].value


def report(name: str, marked: Sequence[Marked], texts: Sequence[str], references: Sequence[str]) -> None:
    """Prints a row: the share of spans that are there once, of all and of each position and kind; of those at the beginning and
    at the end, the share that is there in the translation; and the BLEU of the rest."""
    there = [text.count(one.span) == 1 for one, text in zip(marked, texts, strict=True)]
    cells = [sum(there) / len(there)]
    for group in (*POSITIONS, *PROTECTED.split(",")):
        of_group = [is_there for one, is_there in zip(marked, there, strict=True) if group in (one.position, one.kind)]
        cells.append(sum(of_group) / max(len(of_group), 1))
    ends = [
        text.startswith(one.span) if one.position == "start" else text.rstrip(" .!?").endswith(one.span.rstrip(" .!?"))
        for one, text in zip(marked, texts, strict=True)
        if one.position != "inside"
    ]
    cells.append(sum(ends) / max(len(ends), 1))
    rest = [
        re.sub(r"\s+([.!?])$", r"\1", " ".join(text.replace(one.span, " ").split()))
        for one, text in zip(marked, texts, strict=True)
    ]
    print(f"| {name} | {' | '.join(f'{cell:.1%}' for cell in cells)} | {bleu_of(rest, references):.1f} |")


def with_placeholders(translator, marked: Sequence[Marked], constrained: bool) -> list[str]:
    """The translations with placeholders in place of the spans, which nothing demands, and spans for these. If not
    `constrained`, nothing keeps the search from repeating them, or from others."""
    from transformer_jax.tokenization.placeholders import PLACEHOLDERS

    masked = [one.text.replace(one.span, PLACEHOLDERS[0]) for one in marked]
    ids = translator.tokenizer.placeholder_ids
    if not constrained:
        translator.tokenizer.__dict__["placeholder_ids"] = ()  # the search then knows of none
    translations = translator.translate(masked)
    translator.tokenizer.__dict__["placeholder_ids"] = ids
    return [each.text.replace(PLACEHOLDERS[0], one.span) for one, each in zip(marked, translations, strict=True)]


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--checkpoint", default="latest")
    parser.add_argument("--test", required=True)
    parser.add_argument("--show", type=int, default=0, help="how many marked lines and their translations are printed")
    flags = parser.parse_args()
    set_up()
    from transformer_jax import Translator
    from transformer_jax.data.corpus import read_pairs

    translator = Translator.load(flags.workdir, flags.checkpoint)
    pairs = read_pairs(flags.test, "en", "de")
    marked = mark(pairs.source)
    texts = [one.text for one in marked]
    print(f"| way | all | {' | '.join(POSITIONS)} | {' | '.join(PROTECTED.split(','))} | stays at its end | BLEU of the rest |")
    print("|---|" + "---:|" * 10)
    report("as text", marked, [each.text for each in translator.translate(texts)], pairs.target)
    if translator.tokenizer.placeholder_ids:
        report("placeholders, the model alone", marked, with_placeholders(translator, marked, False), pairs.target)
        report("placeholders, each at most once", marked, with_placeholders(translator, marked, True), pairs.target)
    protected = [each.text for each in translator.translate(texts, protect=PROTECTED)]
    report("--protect", marked, protected, pairs.target)
    plain = [each.text for each in translator.translate(pairs.source)]
    print(f"BLEU of the {len(plain):,} lines without spans: {bleu_of(plain, pairs.target):.1f}")
    for one, text in list(zip(marked, protected, strict=True))[: flags.show]:
        print(f"{one.text}\n    {text}")


if __name__ == "__main__":
    main(run)
