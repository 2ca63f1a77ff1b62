"""HTML to a tree, as browsers read it: fragments, left out tags and broken nesting included."""

import re
from typing import Any

from transformer_jax.inference.markup.tree import Element, Node, Raw, Role, require_depth, write

__all__ = ["read_html"]

# Elements that separate sentences. Of all others, those that HTML does not know among them, the text belongs to what stands
# around it, as browsers show it (HTML, 15.3 "Non-replaced elements": display: block, and what has a box of its own).
_STRUCTURE = frozenset(
    "address article aside blockquote body br button canvas caption center col colgroup dd details dialog dir div dl dt "
    "fieldset figcaption figure footer form frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html legend li link listing main "
    "menu meta nav noscript object ol optgroup option p pre search section select summary table tbody td template textarea "
    "tfoot th thead title tr ul video audio base".split()
)
_VOID = frozenset("area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr".split())
_CODE = frozenset("code kbd samp var".split())
# What is in them is no HTML, or no text.
_FOREIGN = frozenset("iframe math noembed noframes plaintext script style svg xmp".split())
# A line break right after their start tags is no text (HTML, 13.2.6.4.7).
_PRESERVES = frozenset("listing pre textarea".split())
# Attributes that are text (HTML, 3.2.6.2 "The translate attribute"), and of which elements; "": of all.
_TEXTS = {
    "": ("title",),
    "area": ("alt",),
    "img": ("alt",),
    "input": ("alt", "placeholder"),
    "optgroup": ("label",),
    "option": ("label",),
    "textarea": ("placeholder",),
    "th": ("abbr",),
    "track": ("label",),
}
# What a fragment stands in that begins with a part of a table; else in a div.
_PARENTS = dict(tr="tbody", td="tr", th="tr", tbody="table", thead="table", tfoot="table", caption="table", col="colgroup")
_PARENTS["colgroup"] = "table"
_SUPPLIED = ("html", "head", "body", "colgroup", "tbody", "tr")  # elements that a parser adds where their tags are left out
_PAGE = re.compile(r"<(?:!doctype|html|head|body|frameset)\b", re.IGNORECASE)
_FIRST_TAG = re.compile(r"\s*(?:<!--.*?-->\s*)*<([a-z]+)", re.IGNORECASE | re.DOTALL)


def read_html(text: str, ignore: frozenset[str] = frozenset()) -> list[Node]:
    """The nodes of a page or of a fragment of one; what has a doctype or one of the tags `html`, `head`, `body` and `frameset`
    is a page.

    The tree is the one that browsers make (HTML, 13.2 "Parsing HTML documents", by the library justhtml); elements that it has
    and the text has no tag of, such as the `tbody` of a table, are written without tags. Not translated are `code`, `kbd`,
    `samp`, `var`, scripts and drawings, the elements named in `ignore`, and what `translate="no"` or the class `notranslate`
    excludes. Raises UserError where elements stand too deep in each other.
    """
    from justhtml.parser import FragmentContext, JustHTML  # a tenth of a second that plain text does not wait for

    context = None
    if not _PAGE.search(text):
        first = _FIRST_TAG.match(text)
        context = FragmentContext(_PARENTS.get(first[1].lower(), "div") if first else "div")
    parsed = JustHTML(text, fragment_context=context, sanitize=False, scripting_enabled=False)
    supplied = frozenset(name for name in _SUPPLIED if not re.search(rf"<{name}\b", text, re.IGNORECASE))
    return _Reader(ignore, supplied).nodes(parsed.root, translated=True, preserves=False, raw=False, depth=0)


class _Reader:
    """Nodes of justhtml to nodes of `tree`."""

    def __init__(self, ignore: frozenset[str], supplied: frozenset[str]):
        self._ignore, self._supplied = ignore, supplied

    def nodes(self, parent: Any, *, translated: bool, preserves: bool, raw: bool, depth: int) -> list[Node]:
        """The children of a node. Their text is `raw` where it is not translated and belongs to no sentence."""
        require_depth(depth)
        nodes: list[Node] = []
        for child in parent.children:
            if child.name == "#text":
                nodes.append(Raw(write([child.data])) if raw else child.data)
            elif child.name == "#comment":
                nodes.append(Raw(f"<!--{child.data}-->"))
            elif child.name == "!doctype":
                nodes.append(Raw(_doctype(child.data)))
            else:
                nodes.append(self._element(child, translated, preserves, depth + 1))
        return nodes

    def _element(self, node: Any, translated: bool, preserves: bool, depth: int) -> Element:
        name, attributes = node.name, dict(node.attrs)
        translated, preserves = self._is_translated(name, attributes, translated), preserves or name in _PRESERVES
        role: Role = "structure" if name in _STRUCTURE else "inline" if translated else "kept"
        if name in _FOREIGN:
            children: list[Node] = [Raw(_inner(node))]
        else:
            raw = role == "structure" and not translated
            inside = getattr(node, "template_content", None) or node
            children = self.nodes(inside, translated=translated, preserves=preserves, raw=raw, depth=depth)
        if name in _PRESERVES and children and not isinstance(children[0], Element):
            text = children[0] if isinstance(children[0], str) else children[0].text
            children = [Raw("\n"), *children] if text.startswith("\n") else children
        tags = "none" if name in self._supplied else "void" if name in _VOID else "both"
        texts = [key for key in (*_TEXTS[""], *_TEXTS.get(name, ())) if attributes.get(key)]
        if name == "input" and (attributes.get("type") or "").lower() in ("button", "reset", "submit"):
            texts += ["value"] if attributes.get("value") else []
        return Element(name, attributes, children, role, preserves, tuple(texts) if translated else (), tags)

    def _is_translated(self, name: str, attributes: dict[str, str | None], before: bool) -> bool:
        """Is the text of an element translated, where that of its parent is or is not?"""
        own = attributes.get("translate", "inherit")
        if name in self._ignore or name in _CODE or name in _FOREIGN or (own or "").lower() == "no":
            return False
        if "notranslate" in (attributes.get("class") or "").split():
            return False
        return before or own is None or own.lower() in ("", "yes")


def _inner(node: Any) -> str:
    """What stands between the tags of an element that is no HTML: a script as it is, a drawing as HTML has it."""
    if node.namespace == "html":
        return "".join(child.data for child in node.children)
    return "".join(write([child.data]) if child.name == "#text" else child.to_html(pretty=False) for child in node.children)


def _doctype(doctype: Any) -> str:
    public = f' PUBLIC "{doctype.public_id}"' if doctype.public_id is not None else ""
    system = f' "{doctype.system_id}"' if doctype.system_id is not None else ""
    return f"<!DOCTYPE {doctype.name or ''}{public or (' SYSTEM' if system else '')}{system}>"
