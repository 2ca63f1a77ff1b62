"""What a text with markup is between reading and writing: a tree of elements, text and what is kept as it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from transformer_jax.errors import UserError

__all__ = ["DEEPEST", "MARKUPS", "Element", "Node", "Raw", "Role", "require_depth", "text_of", "write"]

MARKUPS = ("html", "xml")  # the kinds of text with markup
DEEPEST = 250  # elements inside each other; browsers stop at 512, and nobody writes so many

# structure  it separates what is translated: a paragraph, a table's cell, a line break
# inline     it belongs to words of a sentence and goes along with them: a link, bold letters
# kept       it goes along too, and what is in it is not translated: a piece of code, a name
Role = Literal["structure", "inline", "kept"]  # what an element is for a translation


class Raw(NamedTuple):
    """Something that is written as it was: a comment, a declaration, a script."""

    text: str


@dataclass(slots=True, eq=False)
class Element:
    """An element, with its tags as they will be written."""

    name: str
    attributes: dict[str, str | None]  # None: an attribute without a value, as in <input disabled>
    children: list["Node"] = field(default_factory=list)
    role: Role = "structure"
    preserves: bool = False  # are its line breaks and spaces part of its text?
    texts: tuple[str, ...] = ()  # the attributes that are text, which is translated
    tags: Literal["both", "void", "none"] = "both"  # void: it has no end tag; none: its parser has supplied it


Node = str | Raw | Element  # what a tree consists of


def write(nodes: Sequence[Node], xml: bool = False) -> str:
    """The markup of these nodes. Text is escaped: `&`, `<` and `>`, in HTML the space that does not break, and in the values of
    attributes double quotes.

    >>> write(["1 < 2 ", Element("b", {"id": "x"}, ["&"]), Raw("<!-- -->")])
    '1 &lt; 2 <b id="x">&amp;</b><!-- -->'
    """
    return "".join(_written(nodes, xml))


def text_of(nodes: Sequence[Node]) -> str:
    """The text in these nodes, without tags, comments and scripts."""
    return "".join(node if isinstance(node, str) else text_of(node.children) for node in nodes if not isinstance(node, Raw))


def require_depth(depth: int) -> None:
    """Raises UserError for an element that stands in more than `DEEPEST` others."""
    if depth > DEEPEST:
        raise UserError(f"--markup: elements stand in each other more than {DEEPEST} deep; take some away")


def _written(nodes: Sequence[Node], xml: bool) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield _escaped(node, xml)
        elif isinstance(node, Raw):
            yield node.text
        elif node.tags == "none":
            yield from _written(node.children, xml)
        else:
            attributes = "".join(_attribute(*item, xml) for item in node.attributes.items())
            if xml and not node.children:
                yield f"<{node.name}{attributes}/>"
                continue
            yield f"<{node.name}{attributes}>"
            if node.tags == "both":
                yield from _written(node.children, xml)
                yield f"</{node.name}>"


def _attribute(name: str, value: str | None, xml: bool) -> str:
    if value is None:
        return f" {name}"
    value = _escaped(value, xml).replace('"', "&quot;")
    if xml:  # a parser would make a space of each
        value = value.replace("\t", "&#9;").replace("\n", "&#10;")
    return f' {name}="{value}"'


def _escaped(text: str, xml: bool) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("\r", "&#13;") if xml else text.replace("\u00a0", "&nbsp;")
