"""Texts with markup, translated."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from transformer_jax.errors import UserError
from transformer_jax.inference.markup.html_reader import read_html
from transformer_jax.inference.markup.segments import cut, joined
from transformer_jax.inference.markup.tree import MARKUPS, write
from transformer_jax.inference.markup.xml_reader import read_xml
from transformer_jax.inference.translation import Translation
from transformer_jax.tokenization.text_arguments import refuse_bare_text

__all__ = ["MarkupTranslation", "TagNames", "translate_texts"]


Translate = Callable[[list[str], list[list[tuple[int, int]]]], list[Translation]]


class TagNames(NamedTuple):
    """Which elements are treated otherwise than by themselves."""

    ignore: Sequence[str] = ()  # what is in them stays as it is
    splitting: Sequence[str] = ()  # XML: they separate sentences
    non_splitting: Sequence[str] = ()  # XML: they belong to the sentence around them


class MarkupTranslation(NamedTuple):
    """A translated text with markup."""

    text: str  # with its markup
    parts: tuple[Translation, ...]  # what was translated by itself, in the order of the text; attributes are among them


def translate_texts(texts: Iterable[str], markup: str, names: TagNames, translate: Translate) -> list[MarkupTranslation]:
    """`Translator.translate_markup`, where `translate` makes the translations, with alignments, of lines; it is told the places
    in each line that are not to be translated.

    Raises UserError as that does.
    """
    refuse_bare_text(texts, "texts", "a list of texts")
    if markup not in MARKUPS:
        raise UserError(f"--markup={markup} should be one of {', '.join(MARKUPS)}")
    if markup == "html" and (names.splitting or names.non_splitting):
        raise UserError("--splitting_tags and --non_splitting_tags are for --markup=xml: HTML says which elements separate")
    trees = []
    for number, text in enumerate(texts, 1):
        try:
            trees.append(cut(_read(text, markup, names)))
        except UserError as error:
            raise UserError(f"text {number}: {error}") from None
    parts = [part for _, of_text in trees for part in of_text]
    found = iter(translate([part.text for part in parts], [part.kept() for part in parts]))
    translated = []
    for nodes, of_text in trees:
        translations = tuple(next(found) for _ in of_text)
        for part, translation in zip(of_text, translations, strict=True):
            part.fill(translation.text, translation.alignment or (), translation.protected)
        translated.append(MarkupTranslation(write(joined(nodes), xml=markup == "xml"), translations))
    return translated


def _read(text: str, markup: str, names: TagNames) -> Any:
    ignore = frozenset(names.ignore)
    if markup == "html":
        return read_html(text, frozenset(name.lower() for name in ignore))
    return read_xml(text, ignore, frozenset(names.splitting), frozenset(names.non_splitting))
