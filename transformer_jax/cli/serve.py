"""What serve.py does: models from run folders, behind HTTP, until it is told to stop."""

import dataclasses
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from transformer_jax.cli.serving_job import ServingJob
from transformer_jax.errors import UserError, pip_install
from transformer_jax.inference.protected_spans import Protection
from transformer_jax.inference.protected_translation import how_spans_are_placed
from transformer_jax.inference.translator import Translator, load_translator
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run
from transformer_jax.serving.request_limits import RequestLimits
from transformer_jax.serving.served_model import ServedModel
from transformer_jax.serving.service import LanguagePair

__all__ = ["serve_models"]

log = logging.getLogger(__name__)

_NAMED = re.compile(r"([A-Za-z]{2,3})-([A-Za-z]{2,3})=(.+)", re.DOTALL)


def serve_models(job: ServingJob) -> None:
    """Serves the models of the job until SIGTERM or Ctrl-C. Raises UserError for bad input, for a port that is taken, and where
    the extra `serve` is not installed."""
    try:
        from transformer_jax.serving.app import make_app
        from transformer_jax.serving.glossaries import Glossaries
        from transformer_jax.serving.http_server import bind, serve
        from transformer_jax.serving.keys import Keys
        from transformer_jax.serving.model_service import ModelService
    except ImportError as error:
        if error.name and error.name.startswith("transformer_jax"):
            raise
        wanted = pip_install("transformer_jax[serve]")
        raise UserError(f"serving needs more ({error.name} is not installed): {wanted}") from None
    limits = RequestLimits(
        file_bytes=job.max_bytes,
        body_bytes=min(job.max_bytes, RequestLimits.body_bytes),
        texts=job.max_texts,
        characters=job.max_characters,
        seconds=job.max_seconds,
        requests=job.max_requests,
    )
    # The threads of the search wait for Python's lock between two programs; by default another thread keeps it for 5 ms.
    sys.setswitchinterval(5e-4)
    keys = Keys.read(job.api_keys) if job.api_keys else Keys()
    glossaries = Glossaries(job.glossaries)
    bound = bind(job.host, job.port)
    with bound:
        service = ModelService(_models(job), limits)
        limits = dataclasses.replace(limits, alternatives=min(limits.alternatives, service.most_alternatives))
        app = make_app(service, limits, keys, glossaries, job.cors)
        service.compile()
        host, port = bound.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        pairs = ", ".join(map("-".join, service.pairs))

        def begin() -> None:
            log.info("ready: %s translates %s", address, pairs)
            service.compile_rest()

        serve(
            app,
            bound,
            grace=job.grace,
            at_begin=begin,
            at_signal=service.stop,
            log_requests=job.log_requests,
        )
        service.close()
    log.info("stopped: every request that was under way has its answer")


def _models(job: ServingJob) -> dict[LanguagePair, ServedModel]:
    models: dict[LanguagePair, ServedModel] = {}
    for pair, run in _runs(job.workdir):
        translator, described = load_translator(run, CheckpointName.parse(job.checkpoint), job.compute_dtype)
        if job.alignment_layer is not None:
            translator.align_with(job.alignment_layer)
        elif translator.aligns and not translator.alignment_layer:
            log.warning("%s: which layer aligns words is not known: each request decides (--alignment_layer)", run.workdir)
        log.info("%s: %s, %s", "-".join(pair), run.workdir, described)
        models[pair] = ServedModel(translator, job.search, _protection(job, pair, translator))
    return models


def _protection(job: ServingJob, pair: LanguagePair, translator: Translator) -> Protection | None:
    """What the job protects; the log says how, once at the start."""
    protection = translator.protection(job.protect, job.numbers)
    if protection is None:
        return None
    log.info("%s: %s", "-".join(pair), how_spans_are_placed(translator.tokenizer, translator.aligns))
    return protection._replace(warns=False)


def _runs(names: Sequence[str]) -> list[tuple[LanguagePair, Run]]:
    """The run of each name, with the languages that it is for: those before the `=`, or those of its config."""
    found: dict[LanguagePair, Run] = {}
    for name in names:
        match = _NAMED.fullmatch(name) if not Path(name).exists() else None
        run = Run(match[3] if match else name)
        data = run.config.data
        languages = (match[1], match[2]) if match else (data.source_language, data.target_language)
        pair = LanguagePair(*(re.split("[-_]", language)[0].lower() for language in languages))
        if pair in found:
            raise UserError(f"--workdir: two runs for {'-'.join(pair)}; write which languages each is for, as in de-en=RUN")
        found[pair] = run
    return list(found.items())
