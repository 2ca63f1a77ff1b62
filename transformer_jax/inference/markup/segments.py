"""The sentences of a tree: text that is translated, with the elements that stand in it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from transformer_jax.inference.alignment import Links
from transformer_jax.inference.markup.projection import Mark, Place, outside_of, project
from transformer_jax.inference.markup.tree import Element, Node, Raw, text_of

__all__ = ["AttributeText", "Segment", "cut", "joined"]

_SPACE = " \t\n\r\f"  # what HTML takes for white space; a space that does not break is a character


@dataclass(slots=True, eq=False)
class Segment:
    """A run of text and elements that is translated together."""

    text: str  # each run of white space in it is one space, unless it is preserved
    marks: list[Mark]
    before: str  # the white space at its ends, as it was
    after: str
    nodes: list[Node] = field(default_factory=list)  # what comes in its place

    def kept(self) -> list[tuple[int, int]]:
        """The places of the text that is not to be translated."""
        return [(mark.start, mark.end) for mark in _all(self.marks) if mark.keeps and mark.start < mark.end]

    def fill(self, translation: str, links: Links, protected: Sequence[tuple[int, int]] = ()) -> None:
        """Puts the elements back around the words of the translation, and inside none of its `protected` parts."""
        places = outside_of(protected, project(self.text, self.marks, translation, links), self.text, translation)
        nodes = _filled(translation, (0, len(translation)), places)
        self.nodes = [*([self.before] if self.before else []), *nodes, *([self.after] if self.after else [])]


@dataclass(slots=True, eq=False)
class AttributeText:
    """The value of an attribute that is text."""

    element: Element
    name: str

    @property
    def text(self) -> str:
        """The value, each run of white space in it as one space."""
        return " ".join((self.element.attributes[self.name] or "").split())

    def kept(self) -> list[tuple[int, int]]:
        """None: all of the value is translated."""
        return []

    def fill(self, translation: str, links: Links, protected: Sequence[tuple[int, int]] = ()) -> None:
        """Sets the value; the rest is of no use."""
        self.element.attributes[self.name] = translation


def cut(nodes: Sequence[Node], preserves: bool = False) -> tuple[list[Node | Segment], list[Segment | AttributeText]]:
    """The nodes with a `Segment` for each run of text that is translated, and all that is translated, in its order.

    A run has text and inline elements, and ends where an element is that separates. One without letters stays as it is. Where
    white space is preserved, a line is a segment of its own.
    """
    parts: list[Segment | AttributeText] = []
    return _cut(nodes, preserves, parts), parts


def joined(nodes: Sequence[Node | Segment]) -> list[Node]:
    """The nodes of a tree whose segments have been filled."""
    whole: list[Node] = []
    for node in nodes:
        if isinstance(node, Segment):
            whole += node.nodes
            continue
        if isinstance(node, Element):
            node.children = joined(node.children)
        whole.append(node)
    return whole


def _cut(nodes: Sequence[Node], preserves: bool, parts: list) -> list[Node | Segment]:
    cut_nodes: list[Node | Segment] = []
    for is_run, some in _runs(nodes, preserves):
        if is_run:
            parts += [AttributeText(element, name) for element in _elements(some) for name in element.texts]
            first, middle, last = _without_ends(some)
            segment = _segment(middle, preserves)
            cut_nodes += [*first, segment, *last] if segment else some
            parts += [segment] if segment else []
            continue
        for node in some:
            if isinstance(node, Element) and node.role != "kept":
                parts += [AttributeText(node, name) for name in node.texts]
                node.children = _cut(node.children, node.preserves, parts)
        cut_nodes += some
    return cut_nodes


def _runs(nodes: Sequence[Node], preserves: bool) -> Iterator[tuple[bool, list[Node]]]:
    """Runs of nodes that may be one sentence (True), and what stands between them (False)."""
    run: list[Node] = []
    for node in nodes:
        pieces = re.split(r"(\n)", node) if preserves and isinstance(node, str) else [node]
        for piece in pieces:
            if (isinstance(piece, Element) and _separates(piece, preserves)) or (preserves and piece == "\n"):
                yield from [(True, run)] if run else []
                run = []
                yield False, [piece]
            elif piece != "":
                run.append(piece)
    if run:
        yield True, run


def _separates(element: Element, preserves: bool) -> bool:
    if element.role == "structure" or element.preserves != preserves:
        return True
    if preserves and "\n" in text_of([element]):
        return True
    return any(isinstance(child, Element) and _separates(child, preserves) for child in element.children)


def _elements(nodes: Sequence[Node]) -> Iterator[Element]:
    for node in nodes:
        if isinstance(node, Element):
            yield node
            if node.role != "kept":
                yield from _elements(node.children)


def _without_ends(nodes: Sequence[Node]) -> tuple[list[Node], list[Node], list[Node]]:
    """A run without what stands before its first word, or after its last one, with white space between: all three parts."""
    pieces = [piece for node in nodes for piece in (re.split(r"^(\s+)|(\s+)$", node) if isinstance(node, str) else [node])]
    pieces = [piece for piece in pieces if piece]
    start, end = _end_of_space(pieces), len(pieces) - _end_of_space(pieces[::-1])
    return (pieces[:start], pieces[start:end], pieces[end:]) if start < end else (pieces, [], [])


def _end_of_space(nodes: Sequence[Node]) -> int:
    """The place after the last white space before the first text."""
    end = 0
    for place, node in enumerate(nodes, 1):
        if text_of([node]).strip():
            break
        end = place if isinstance(node, str) else end
    return end


def _segment(nodes: Sequence[Node], preserves: bool) -> Segment | None:
    """The segment of a run; None where there is nothing to translate."""
    if not any(character.isalpha() for character in _own_text(nodes)):
        return None
    flat = _Flat(preserves)
    marks = flat.add(nodes)
    text = "".join(flat.characters)
    end = len(text.rstrip(_SPACE))
    for mark in _all(marks):
        mark.start, mark.end = min(mark.start, end), min(mark.end, end)
    after = flat.last_space if not preserves else text[end:]
    return Segment(text[:end], marks, flat.before, after)


def _own_text(nodes: Sequence[Node]) -> str:
    """The text that is to be translated."""
    return "".join(
        node if isinstance(node, str) else _own_text(node.children)
        for node in nodes
        if isinstance(node, str) or (isinstance(node, Element) and node.role == "inline")
    )


def _all(marks: Sequence[Mark]) -> Iterator[Mark]:
    for mark in marks:
        yield mark
        yield from _all(mark.children)


class _Flat:
    """The text of a run, as it grows."""

    def __init__(self, preserves: bool):
        self.characters: list[str] = []
        self.before = ""  # the white space before the first character
        self.last_space = ""  # the white space after the last one so far
        self._preserves = preserves

    def add(self, nodes: Sequence[Node]) -> list[Mark]:
        """Adds the text of these nodes. Returns the marks of what else is among them."""
        marks = []
        for node in nodes:
            if isinstance(node, str):
                self._add_text(node)
                continue
            mark = Mark(node, len(self.characters), keeps=isinstance(node, Element) and node.role == "kept")
            if mark.keeps:
                self._add_text(text_of(node.children))
            elif isinstance(node, Element):
                mark.children = self.add(node.children)
            mark.end = len(self.characters)
            marks.append(mark)
        return marks

    def _add_text(self, text: str) -> None:
        for character in text:
            if character not in _SPACE:
                self.characters.append(character)
                self.last_space = ""
            elif not self.characters:
                self.before += character
            else:
                if self._preserves or not self.last_space:
                    self.characters.append(character if self._preserves else " ")
                self.last_space += character


def _filled(text: str, span: tuple[int, int], places: Sequence[Place]) -> list[Node]:
    """The nodes of a part of the translation with what has its place there."""
    nodes: list[Node] = []
    at = span[0]
    for place in places:
        nodes += [text[at : place.start]] if at < place.start else []
        node = place.mark.node
        if place.mark.keeps and place.start == place.end:  # words were kept that the translation has no words for
            nodes += _apart(text, place, node)
        elif isinstance(node, Raw) or place.mark.keeps:
            nodes.append(node)
        else:
            node.children = _filled(text, (place.start, place.end), place.inside)
            nodes.append(node)
        at = max(at, place.end)
    return [*nodes, *([text[at : span[1]]] if at < span[1] else [])]


def _apart(text: str, place: Place, node: Element) -> list[Node]:
    """An element with spaces around it, where it would touch a word."""
    if place.mark.start == place.mark.end:
        return [node]
    before = [" "] if place.start and text[place.start - 1].isalnum() else []
    after = [" "] if text[place.start : place.start + 1].isalnum() else []
    return [*before, node, *after]
