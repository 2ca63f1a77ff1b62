"""XML to a tree, strictly."""

import re
from xml.parsers import expat

from transformer_jax.errors import UserError
from transformer_jax.inference.markup.tree import Element, Node, Raw, require_depth, write

__all__ = ["read_xml"]

_PROLOG = re.compile(r"\s*<\?xml\s.*?\?>", re.DOTALL)
_AROUND = "markup"  # the name of an element around a fragment


def read_xml(
    text: str,
    ignore: frozenset[str] = frozenset(),
    splitting: frozenset[str] = frozenset(),
    non_splitting: frozenset[str] = frozenset(),
) -> list[Node]:
    """The nodes of an XML document, or of a fragment of one, which may be text and elements beside each other.

    An element belongs to a sentence if it, or an element around it, stands beside text in its parent; all others separate: in
    `<book><title>One</title><p>See <b>two</b>.</p></book>` only `b` belongs to one. Elements named in `splitting` always
    separate, those in `non_splitting` never do. Not translated are elements named in `ignore` and those with `translate="no"`.
    With `xml:space="preserve"` line breaks and spaces stay. Comments, processing instructions and a document type are kept.

    Raises UserError, naming line and column, for what is not well-formed and for declarations of entities, which may grow
    without limit; and where elements stand too deep in each other.
    """
    nodes = _Reader().read(text)
    _assign_roles(nodes, (ignore, splitting, non_splitting), translated=True, inline=False, preserves=False)
    return nodes


class _Reader:
    """The handlers of a parser, which collect what they are called with."""

    def __init__(self):
        self._parser = parser = expat.ParserCreate("utf-8")  # whatever a declaration says: this is text, not bytes
        parser.buffer_text = parser.ordered_attributes = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._text
        parser.CommentHandler = lambda text: self._add(Raw(f"<!--{text}-->"))
        parser.ProcessingInstructionHandler = lambda target, text: self._add(Raw(f"<?{f'{target} {text}'.rstrip()}?>"))
        parser.SkippedEntityHandler = lambda name, is_parameter: self._add(Raw(f"&{name};"))
        parser.StartDoctypeDeclHandler, parser.EntityDeclHandler = self._doctype, self._entity
        parser.DefaultHandlerExpand = self._other
        self._root = Element("", {})
        self._open = [self._root]  # the elements that are not closed

    def read(self, text: str) -> list[Node]:
        """The nodes of a text. To be called once. Raises UserError as `read_xml` does."""
        text = text.removeprefix("\ufeff")
        prolog = _PROLOG.match(text)
        before = prolog[0] if prolog else ""
        # A document has one element around all of it; a fragment gets one.
        whole = bool(prolog) or "<!DOCTYPE" in text
        first, last = ("", "") if whole else (f"<{_AROUND}>", f"</{_AROUND}>")
        rest = text[len(before) :]
        try:
            self._parser.Parse((first + rest + last).encode("utf-8", "surrogatepass"), True)
        except expat.ExpatError as error:
            line, column = error.lineno + before.count("\n"), error.offset + 1 - (len(first) if error.lineno == 1 else 0)
            raise UserError(f"--markup=xml: line {line}, column {max(column, 1)}: {expat.ErrorString(error.code)}") from None
        nodes = self._root.children if whole else self._root.children[0].children
        return [*([Raw(before)] if before else []), *nodes]

    def _add(self, node: Node) -> None:
        self._open[-1].children.append(node)

    def _text(self, text: str) -> None:
        self._add(text)

    def _other(self, text: str) -> None:
        """White space outside of the document's element, and the ends of CDATA, whose text comes to `_text`."""
        if text.isspace():
            self._add(Raw(text))

    def _start(self, name: str, attributes: list[str]) -> None:
        require_depth(len(self._open))
        element = Element(name, dict(zip(attributes[::2], attributes[1::2], strict=True)))
        self._add(element)
        self._open.append(element)

    def _end(self, name: str) -> None:
        self._open.pop()

    def _doctype(self, name: str, system: str | None, public: str | None, has_declarations: int) -> None:
        if has_declarations:
            self._refuse("a document type with declarations of its own")
        identifiers = f' PUBLIC "{public}" "{system}"' if public else f' SYSTEM "{system}"' if system else ""
        self._add(Raw(f"<!DOCTYPE {name}{identifiers}>"))

    def _entity(self, name: str, *_: object) -> None:
        self._refuse(f"the declaration of an entity ({name})")

    def _refuse(self, what: str) -> None:
        line, column = self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber + 1
        raise UserError(f"--markup=xml: line {line}, column {column}: {what} is not read; take it out")


def _assign_roles(
    nodes: list[Node],
    names: tuple[frozenset[str], frozenset[str], frozenset[str]],
    *,
    translated: bool,
    inline: bool,
    preserves: bool,
) -> None:
    """Says of all elements what they are for a translation. `inline`: is what is around them part of a sentence?"""
    ignore, splitting, non_splitting = names
    inline = inline or any(isinstance(node, str) and node.strip() for node in nodes)
    for i, node in enumerate(nodes):
        if isinstance(node, str) and not translated and not inline:
            nodes[i] = Raw(write([node], xml=True))
        if not isinstance(node, Element):
            continue
        own = node.attributes.get("translate", "")
        is_translated = node.name not in ignore and (own != "no") and (translated or own == "yes")
        is_inline = node.name in non_splitting or (inline and node.name not in splitting)
        node.preserves = {"preserve": True, "default": False}.get(node.attributes.get("xml:space") or "", preserves)
        node.role = "structure" if not is_inline else "inline" if is_translated else "kept"
        _assign_roles(node.children, names, translated=is_translated, inline=is_inline, preserves=node.preserves)
