"""All endpoints behind one front."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from .embeddings import EmbeddingEndpoints
from .front import Front
from .inference import InferenceProtocol
from .metrics import Metrics
from .models import ServedModels
from .prediction import PredictionEndpoint
from .replies import json_reply
from .schema import Pages
from .settings import Settings
from .state import ServerState


class Application:
    """An ASGI application over open models.

    Attributes:
        models: what it serves; whoever runs it closes them.
        settings: its limits.
        state: whether it takes requests.
        metrics: what it counts.
    """

    def __init__(self, models: ServedModels, settings: Settings, metrics: Metrics) -> None:
        self.models = models
        self.settings = settings
        self.state = ServerState()
        self.metrics = metrics
        routes = [
            Route("/health", self._health, methods=["GET"]),
            *EmbeddingEndpoints(models, self.metrics, settings.max_texts).routes(),
            *InferenceProtocol(models, self.state).routes(),
            *PredictionEndpoint(models, settings.max_texts).routes(),
            *self.metrics.routes(),
            *Pages(models, has_key=settings.key is not None).routes(),
        ]
        self._router = Router(routes, redirect_slashes=False)
        self._front = Front(self._routed, settings, self.state, self.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._front(scope, receive, send)

    async def _routed(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # the router then raises what it does not find
        await self._router(scope, receive, send)

    async def _health(self, _: Request) -> Response:
        status = "ok" if self.state.ready else "stopping"
        models = {model.name: model.task for model in self.models}
        return json_reply(
            {"status": status, "models": models}, status=200 if self.state.ready else 503
        )
