"""Figures of a server for Prometheus, by its own client library."""

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from transformer_jax.inference.open_search import SearchCounts
from transformer_jax.serving.service import LanguagePair

__all__ = ["Metrics"]

_SECONDS = 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60


class Counted(Protocol):
    """What the figures are taken from."""

    under_way: int

    def counts(self) -> dict[LanguagePair, SearchCounts]:
        """What the search of each pair of languages has done, and is to do."""


class Metrics:
    """The figures of one server: requests by path and status, their seconds, the queue, how full the batches are, what has been
    translated. `transformer_jax_` is before each name."""

    def __init__(self, service: Counted):
        self._service, self._registry = service, CollectorRegistry()
        labels = {"registry": self._registry, "namespace": "transformer_jax"}
        self._requests = Counter("requests", "Requests that were answered", ["path", "status"], **labels)
        self._seconds = Histogram("request_seconds", "From request to answer", ["path"], buckets=_SECONDS, **labels)
        self._registry.register(self)

    def page(self) -> tuple[bytes, str]:
        """All figures in Prometheus' text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """What the service counts, when it is asked for."""
        yield GaugeMetricFamily("transformer_jax_under_way", "Requests that are being answered", self._service.under_way)
        gauges = {"waiting": "Sentences that have no slot yet", "searching": "Sentences in slots"}
        counters = {
            "pieces": "Sentences that have been translated",
            "tokens": "Tokens of their translations",
            "slots": "Slots of all batches so far",
            "occupied": "Slots of all batches so far that had a sentence; over slots: how full they were",
        }
        counts = self._service.counts()
        for family, names in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for name, what in names.items():
                metric = family(f"transformer_jax_{name}", what, labels=["languages"])
                for pair, of_pair in counts.items():
                    metric.add_metric(["-".join(pair)], getattr(of_pair, name))
                yield metric

    def around(self, app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """ASGI middleware that counts the requests to an application and their seconds, by the path of the route."""

        async def counted(scope: dict[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            begun, status = time.perf_counter(), "left"

            async def noted(message: dict[str, Any]) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = str(message["status"])
                await send(message)

            try:
                await app(scope, receive, noted)
            finally:
                # The route's path, not the request's: of these there may be any number.
                path = getattr(scope.get("route"), "path", "other")
                self._requests.labels(path, status).inc()
                self._seconds.labels(path).observe(time.perf_counter() - begun)

        return counted
