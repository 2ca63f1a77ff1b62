"""Documents in DeepL's API: a file goes up, its translation is asked for, and comes down once."""

import asyncio
import hmac
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from transformer_jax.serving.answers import log_bug
from transformer_jax.serving.deepl_requests import UNSUPPORTED, DeepLServer
from transformer_jax.serving.errors import BadRequest, Busy, NotFound, RequestError
from transformer_jax.serving.fields import Upload
from transformer_jax.serving.kept import Kept
from transformer_jax.serving.service import LanguagePair, TextOptions
from transformer_jax.serving.text_documents import TextDocument, document_parts, extension, read_document

__all__ = ["document_handlers"]

_FIELDS = (
    *("file", "filename", "source_lang", "target_lang", "output_format", "formality", "glossary_id", "glossary_ids"),
    *("enable_beta_languages", *UNSUPPORTED),
)
_PATIENCE = 1.0  # seconds that the answer about a document waits for it, as clients ask again after five only


class _NotReady(RequestError):
    """The document is not translated yet."""

    status = 503


@dataclass
class _Job:
    """A document that is being translated, or has been."""

    key: str
    document: TextDocument  # what came up, and when it is done its translation
    characters: int
    state: str = "queued"  # as DeepL has them: queued, translating, done, error
    error: str = ""
    started: float = 0.0  # by the clock of the event loop
    share: float = 0.0  # how much of it is translated
    task: asyncio.Task[None] | None = None


def document_handlers(server: DeepLServer) -> list[tuple[str, Callable, list[str]]]:
    """The addresses, their handlers and methods."""
    documents = _Documents(server)
    return [
        ("/v2/document", documents.upload, ["POST"]),
        ("/v2/document/{document_id}", documents.status, ["GET", "POST"]),
        ("/v2/document/{document_id}/result", documents.download, ["GET", "POST"]),
    ]


class _Documents:
    """The handlers."""

    def __init__(self, server: DeepLServer):
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()  # a task that nobody holds may vanish
        self._jobs: Kept[_Job] = Kept(server.limits.kept_seconds, server.limits.kept_bytes, "document")

    async def upload(self, request: Request) -> Response:
        fields = await self._server.fields(request, self._server.limits.file_bytes, _FIELDS)
        source, target = self._server.languages(fields)
        self._server.refuse_unsupported(fields)
        fields.flag("enable_beta_languages", False)
        terminology = await self._server.terminology(fields, source, target)
        file = fields.upload("file")
        name = fields.text("filename", "") or file.name
        document = read_document(Upload(name, file.content))
        output = fields.text("output_format", "").lower().removeprefix(".")
        if output and output != extension(name).removeprefix("."):
            raise BadRequest(f"output_format not supported: a {extension(name)} document is translated into one.")
        source = source or self._server.detected(document.text, target, document.markup)
        if source == target:
            raise BadRequest("Source and target language are equal.")
        job = _Job(secrets.token_hex(32).upper(), document, len(document.text))
        identifier = self._jobs.put(job, 2 * len(file.content))  # its translation may be longer
        options = TextOptions(markup=document.markup, terminology=terminology)
        job.task = asyncio.create_task(self._translate(job, self._server.pair(source, target), options))
        self._tasks.add(job.task)
        job.task.add_done_callback(self._tasks.discard)
        return JSONResponse({"document_id": identifier, "document_key": job.key})

    async def status(self, request: Request) -> Response:
        job = await self._job(request)
        if job.task is not None:
            await asyncio.wait([job.task], timeout=_PATIENCE)
        answer: dict[str, Any] = {"document_id": request.path_params["document_id"], "status": job.state}
        if job.state == "translating" and job.share:
            elapsed = asyncio.get_running_loop().time() - job.started
            answer["seconds_remaining"] = math.ceil(elapsed * (1 / job.share - 1))
        if job.state == "done":
            answer["billed_characters"] = job.characters
        if job.state == "error":
            answer["error_message"] = answer["message"] = job.error
        return JSONResponse(answer)

    async def download(self, request: Request) -> Response:
        job = await self._job(request)
        if job.state == "error":
            raise BadRequest(f"The document could not be translated: {job.error}")
        if job.state != "done":
            raise _NotReady("Document translation is not done", {"Retry-After": "1"})
        self._jobs.forget(request.path_params["document_id"])
        self._server.characters += job.characters
        return job.document.response()

    async def _job(self, request: Request) -> _Job:
        """The document of a request that has its key. Raises NotFound without the right one."""
        fields = await self._server.fields(request, self._server.limits.body_bytes, ("document_key",))
        key = fields.text("document_key")
        job = self._jobs.get(request.path_params["document_id"])
        if not hmac.compare_digest(key.encode(), job.key.encode()):
            raise NotFound("Document not found")
        return job

    async def _translate(self, job: _Job, pair: LanguagePair, options: TextOptions) -> None:
        """Translates a document, part by part, so that a long one is neither too slow nor in the way of others."""
        job.started = asyncio.get_running_loop().time()
        translated = []
        try:
            for part in document_parts(job.document):
                translated.append(await self._part(job, part, pair, options))
                job.share += len(part) / max(job.characters, 1)
        except RequestError as error:
            job.state, job.error = "error", error.message
        except Exception as error:
            log_bug("a document", error)
            job.state, job.error = "error", "Internal error; the server's log says where."
        else:
            job.document, job.state = job.document._replace(text="".join(translated)), "done"

    async def _part(self, job: _Job, part: str, pair: LanguagePair, options: TextOptions) -> str:
        """The translation of a part, when there is room for it; Busy if there is none for as long as a document is kept."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._server.limits.kept_seconds
        while True:
            job.state = "translating"
            try:
                (served,) = await self._server.service.translate([part], pair, options)
                return served.text
            except Busy as error:
                if loop.time() >= until:
                    raise
                job.state = "queued"
                await asyncio.sleep(float(error.headers.get("Retry-After", 1)))
