"""Counters for Prometheus, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.process_collector import ProcessCollector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..batching import BatchRecord

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """What a server counts.

    Attributes:
        registry: for what else is to be shown on the same page.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "fuselage_http_requests_total",
            "Answers, by route and status; 499 when the client left first.",
            ("route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "fuselage_http_request_seconds",
            "From a request's headers to its answer.",
            ("route",),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._in_flight = Gauge(
            "fuselage_http_in_flight", "Requests under way.", registry=self.registry
        )
        self._texts = Counter(
            "fuselage_texts_total", "Texts embedded.", ("model",), registry=self.registry
        )
        self._tokens = Counter(
            "fuselage_tokens_total", "Tokens embedded.", ("model",), registry=self.registry
        )
        self._batches = self._of_model("fuselage_batches_total", "Batches run.")
        self._batch_texts = self._of_model("fuselage_batch_texts_total", "Texts in batches.")
        self._batch_tokens = self._of_model("fuselage_batch_tokens_total", "Tokens in batches.")
        self._padded_tokens = self._of_model(
            "fuselage_batch_padded_tokens_total", "Tokens in batches, with those of the padding."
        )
        self._batch_seconds = Counter(
            "fuselage_batch_seconds_total",
            "Seconds that heads of batches waited (queue), and that batches ran (compute).",
            ("model", "phase"),
            registry=self.registry,
        )

    def _of_model(self, name: str, about: str) -> Counter:
        return Counter(name, about, ("model",), registry=self.registry)

    def routes(self) -> list[Route]:
        """The page that Prometheus reads."""
        return [Route("/metrics", self.page, methods=["GET"])]

    async def page(self, _: Request) -> Response:
        """Everything, in Prometheus' text format."""
        return Response(
            generate_latest(self.registry), headers={"content-type": CONTENT_TYPE_LATEST}
        )

    def started(self) -> None:
        """A request came."""
        self._in_flight.inc()

    def answered(self, route: str, status: int, seconds: float) -> None:
        """It was answered."""
        self._in_flight.dec()
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, model: str, record: BatchRecord) -> None:
        """An engine answered a batch; called by the threads of batchers."""
        self._batches.labels(model).inc()
        self._batch_texts.labels(model).inc(record.texts)
        self._batch_tokens.labels(model).inc(record.tokens)
        self._padded_tokens.labels(model).inc(record.padded_tokens)
        self._batch_seconds.labels(model, "queue").inc(record.queue_ms / 1e3)
        self._batch_seconds.labels(model, "compute").inc(record.compute_ms / 1e3)

    def texts(self, model: str, texts: int, tokens: int) -> None:
        """Texts were embedded."""
        self._texts.labels(model).inc(texts)
        self._tokens.labels(model).inc(tokens)
