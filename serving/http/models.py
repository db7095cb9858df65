"""Bundles opened for many clients, each under its name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request

from ...engines.bundle import Bundle
from ...engines.text.encoder import Encoded
from ...engines.text.pipeline import text_pipeline
from ...engines.text.runtime import TextRuntime
from ...engines.text.scores import Floats
from ...engines.text.task import TASK_FILE, TaskSpec
from ...errors import BundleError
from ...graph.tensors import Array, ShapeProfile
from ..batching import BatcherOptions, TokenBatcher
from .encoder import StrictEncoder
from .faults import RequestError
from .metrics import Metrics
from .settings import Settings
from .workers import Admission, Workers

VERSION = "1"
"""The one version of every model; the protocol wants a name for it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CALLS = 2
"""Calls of one engine at once: the second prepares and reads while the first computes."""

_LARGE_REQUESTS = 4
"""Requests with as many texts as there may be that the queue has room for, beside small ones."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How to open bundles.

    Attributes:
        target: None for the best that runs here.
        threads: CPU threads of each engine; 0 for all physical cores.
        trust: open engines without a manifest.
    """

    target: str | None = None
    threads: int = 0
    trust: bool = False


class ServedModel:
    """One open bundle; owns its runtime.

    Attributes:
        name: in paths and in the ``model`` of requests.
        runtime: the open engine and its tokenizer.
        admission: requests of this model.

    Args:
        name: see the attribute.
        runtime: see the attribute.
        settings: bounds of the queue.
        metrics: told of every batch.
    """

    def __init__(
        self, name: str, runtime: TextRuntime, settings: Settings, metrics: Metrics
    ) -> None:
        self.name = name
        self.runtime = runtime
        self.admission = Admission(settings.max_queue)
        self._workers = Workers(_CALLS)
        self._batcher = TokenBatcher(
            runtime,
            BatcherOptions(max_queue=settings.max_queue + _LARGE_REQUESTS * settings.max_texts),
            on_batch=partial(metrics.batch, name),
        )

    @property
    def task(self) -> str:
        """Of the bundle."""
        return self.runtime.task

    async def embed(self, encoded: Encoded, client: str) -> Floats:
        """Vectors of texts [texts, dimension], in batches with those of other clients.

        Args:
            encoded: the texts.
            client: whose turn it is.
        """
        dimension = self.runtime.spec.dimension or 0
        vectors = np.empty((len(encoded.encodings), dimension), np.float32)
        for batch in await self._batcher.run(encoded, client=client):
            vectors[batch.rows] = batch.outputs[0]
        return vectors

    async def predict(self, inputs: Any, options: Mapping[str, Any], client: str) -> Any:
        """What the runtime of the task answers, in batches likewise."""
        return await self._batcher.ask(inputs, options=options, client=client)

    async def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Raw tensors, straight to the engine."""
        return await self._workers.call(self.runtime.engine.run, feeds)

    def close(self) -> None:
        """Release the engine behind the calls under way."""
        self._workers.close()
        self._batcher.close()
        self.runtime.close()


class ServedModels:
    """All models of a server, by name.

    Args:
        models: at least one.
    """

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = dict(models)

    @property
    def names(self) -> tuple[str, ...]:
        """In the order they were given."""
        return tuple(self._models)

    def __iter__(self) -> Any:
        return iter(self._models.values())

    def named(self, name: str) -> ServedModel:
        """The model of a name.

        Raises:
            RequestError: 404.
        """
        if name not in self._models:
            raise RequestError(
                404,
                f"model {name!r:.60} is not served here; expected one of {list(self._models)}",
                code="model_not_found",
                param="model",
            )
        return self._models[name]

    def of_task(self, name: Any, tasks: Sequence[str]) -> ServedModel:
        """The model of a name; without one, the first that does one of the tasks.

        Raises:
            RequestError: 404 when there is none, 400 when it does something else.
        """
        if name is None:
            fit = [model for model in self._models.values() if model.task in tasks]
            if fit:
                return fit[0]
            raise RequestError(404, f"no model served here does {' or '.join(tasks)}")
        if not isinstance(name, str):
            raise RequestError(400, "model: expected a string", param="model")
        model = self.named(name)
        if model.task not in tasks:
            raise RequestError(
                400,
                f"model {name!r} does {model.task}; expected {' or '.join(tasks)}",
                code="wrong_task",
                param="model",
            )
        return model

    def close(self) -> None:
        """Close all."""
        for model in self._models.values():
            model.close()


def client_of(request: Request) -> str:
    """Whom a request counts for when clients take turns: the machine it came from."""
    return request.client.host if request.client else ""


def open_models(
    bundles: Mapping[str, Path], opening: Opening, settings: Settings, metrics: Metrics
) -> ServedModels:
    """Open bundles under their names, all or none.

    Raises:
        BundleError: when a name cannot be one, or a bundle is missing or damaged.
        DeviceError: when a bundle has no engine that runs here.
    """
    with ExitStack() as opened:
        models: dict[str, ServedModel] = {}
        for name, path in bundles.items():
            if not _NAME.fullmatch(name):
                raise BundleError(
                    f"{path}: served as {name!r}; expected a name of letters, digits, '.', '_' and "
                    "'-'; give one with --name NAME=FOLDER"
                )
            runtime = opened.enter_context(_open_runtime(path, opening))
            models[name] = ServedModel(name, runtime, settings, metrics)
        opened.pop_all()
    return ServedModels(models)


def _open_runtime(path: Path, opening: Opening) -> TextRuntime:
    bundle = Bundle.open(path, trust=opening.trust)
    spec = TaskSpec.load(bundle.path(TASK_FILE))
    tokenizer = bundle.path("tokenizer.json")
    engine = bundle.engine(opening.target, threads=opening.threads)
    with ExitStack() as opened:
        opened.enter_context(engine)
        axes = bundle.manifest.targets[engine.name].profile
        runtime = text_pipeline(
            engine, tokenizer, spec, profile=ShapeProfile(axes) if axes else None
        )
        runtime.encoder = StrictEncoder(tokenizer, spec, runtime.encoder.max_tokens)
        opened.pop_all()
    return runtime
