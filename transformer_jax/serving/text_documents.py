"""Files that are translated whole: plain text and HTML."""

import codecs
import re
from typing import NamedTuple
from urllib.parse import quote

from starlette.responses import Response

from transformer_jax.serving.errors import BadRequest
from transformer_jax.serving.fields import Upload, shown
from transformer_jax.serving.service import LanguagePair, Service, TextOptions

__all__ = ["EXTENSIONS", "TextDocument", "document_parts", "extension", "read_document", "translate_document"]

_MARKUP = {".txt": "", ".html": "html", ".htm": "html"}
EXTENSIONS = tuple(_MARKUP)  # of files that can be translated


class TextDocument(NamedTuple):
    """A file of text."""

    name: str
    markup: str  # html or nothing
    text: str
    has_mark: bool  # does it begin with a byte order mark?

    def response(self) -> Response:
        """The file as a download."""
        content = codecs.BOM_UTF8 * self.has_mark + self.text.encode("utf-8")
        headers = {"Content-Disposition": f"attachment; filename*=utf-8''{quote(self.name, safe='')}"}
        return Response(content, media_type="text/html" if self.markup else "text/plain", headers=headers)


def extension(name: str) -> str:
    """The end of a file's name, in small letters.

    >>> extension("Letter.TXT"), extension("letter")
    ('.txt', '')
    """
    found = re.search(r"\.[^./\\]*$", name)
    return found[0].lower() if found else ""


def read_document(upload: Upload) -> TextDocument:
    """The text of a file. Raises BadRequest where its name ends in another way than `EXTENSIONS`, and where it is not UTF-8."""
    end = extension(upload.name)
    if end not in _MARKUP:
        raise BadRequest(f"{shown(upload.name)} has no format that is supported: expected {', '.join(EXTENSIONS)}.")
    has_mark = upload.content.startswith(codecs.BOM_UTF8)
    try:
        text = upload.content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The file should be UTF-8; its byte {error.start + 1:,} is not.") from None
    return TextDocument(upload.name, _MARKUP[end], text, has_mark)


def document_parts(document: TextDocument, characters: int = 4000) -> list[str]:
    """The text in parts that can be translated one after the other: of plain text, whose lines are translated by themselves,
    lines with about so many characters together; HTML is one part.

    >>> document_parts(TextDocument("a.txt", "", "one\\ntwo\\n\\nthree", False), characters=5)
    ['one\\ntwo\\n', '\\nthree']
    """
    if document.markup:
        return [document.text]
    parts = [""]
    for line in re.findall(r"[^\n]*\n|[^\n]+$", document.text):
        if len(parts[-1]) >= characters:
            parts.append("")
        parts[-1] += line
    return parts


async def translate_document(
    service: Service, document: TextDocument, pair: LanguagePair, options: TextOptions
) -> TextDocument:
    """The document in the other language, under its name. Raises what `service.translate` does."""
    (translated,) = await service.translate([document.text], pair, options)
    return document._replace(text=translated.text)
