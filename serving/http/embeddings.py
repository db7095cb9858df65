"""Texts to vectors: ``/v1/embeddings`` as OpenAI spells it, and the plain ``/embed``."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...engines.text.encoder import Encoded
from ...engines.text.scores import Floats
from .bodies import check_keys, kind_of, read_object
from .encoder import encoded_tokens, may_cut
from .faults import RequestError, bad_request
from .metrics import Metrics
from .models import ServedModel, ServedModels, client_of
from .replies import json_reply

_TASKS = ("embedding",)
_INLINE = 4096
"""Characters that are tokenised in the event loop: a millisecond, less than a thread's detour."""

_OPENAI = ("model", "input", "encoding_format", "dimensions", "user", "truncate")
_EMBED = ("model", "inputs", "prompt_name", "normalize", "truncate")


class EmbeddingEndpoints:
    """Endpoints that answer with vectors.

    Args:
        models: what is served.
        metrics: counts texts and tokens.
        max_texts: of one request.
    """

    def __init__(self, models: ServedModels, metrics: Metrics, max_texts: int) -> None:
        self._models = models
        self._metrics = metrics
        self._max_texts = max_texts

    def routes(self) -> list[Route]:
        """Of both."""
        return [
            Route("/v1/embeddings", self.openai, methods=["POST"]),
            Route("/v1/models", self.list_models, methods=["GET"]),
            Route("/v1/models/{name}", self.one_model, methods=["GET"]),
            Route("/embed", self.embed, methods=["POST"]),
        ]

    async def openai(self, request: Request) -> Response:
        """Create embeddings. Source: https://platform.openai.com/docs/api-reference/embeddings."""
        body = read_object(await request.body())
        check_keys(body, _OPENAI)
        if "model" not in body:
            raise bad_request("model: the key is missing", "model")
        model = self._models.of_task(body["model"], _TASKS)
        encoding = body.get("encoding_format", "float")
        if encoding not in ("float", "base64"):
            raise bad_request(
                f"encoding_format: expected float or base64, got {encoding!r:.40}",
                "encoding_format",
            )
        _check_dimensions(body.get("dimensions"), model)
        items = _items(body.get("input"), "input", self._max_texts)
        encoded = await self._encoded(model, items, cut=_flag(body, "truncate"))
        vectors = await self._vectors(model, encoded, request)
        tokens = int(encoded.lengths.sum())
        return json_reply(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": index, "embedding": _spelled(row, encoding)}
                    for index, row in enumerate(vectors)
                ],
                "model": model.name,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    async def embed(self, request: Request) -> Response:
        """A list of vectors, as text-embeddings-inference answers."""
        body = read_object(await request.body())
        check_keys(body, _EMBED)
        model = self._models.of_task(body.get("model"), _TASKS)
        normalized = bool(model.runtime.spec.normalized)
        if _flag(body, "normalize", default=normalized) != normalized:
            raise bad_request(
                f"normalize: the vectors of {model.name!r} are {'' if normalized else 'not '}"
                "normalised by the model itself; leave it out",
                "normalize",
            )
        items = _items(body.get("inputs"), "inputs", self._max_texts)
        before = _prompt(body.get("prompt_name"), model)
        if before:
            items = [before + item if isinstance(item, str) else item for item in items]
        encoded = await self._encoded(model, items, cut=_flag(body, "truncate"))
        vectors = await self._vectors(model, encoded, request)
        return json_reply(vectors.tolist())

    async def list_models(self, _: Request) -> Response:
        """Everything that is served, in OpenAI's form."""
        return json_reply({"object": "list", "data": [_entry(model) for model in self._models]})

    async def one_model(self, request: Request) -> Response:
        """One of them."""
        return json_reply(_entry(self._models.named(request.path_params["name"])))

    async def _encoded(self, model: ServedModel, items: list[Any], *, cut: bool) -> Encoded:
        may_cut.set(cut)
        encoder = model.runtime.encoder
        if not isinstance(items[0], str):
            return encoded_tokens(items, encoder)
        if sum(map(len, items)) <= _INLINE:
            return encoder.encode(items)
        return await asyncio.to_thread(encoder.encode, items)

    async def _vectors(self, model: ServedModel, encoded: Encoded, request: Request) -> Floats:
        with model.admission.one():
            vectors = await model.embed(encoded, client_of(request))
        self._metrics.texts(model.name, len(encoded.lengths), int(encoded.lengths.sum()))
        return vectors


def _items(value: Any, key: str, most: int) -> list[Any]:
    """One or many texts, or one or many lists of token ids."""
    if isinstance(value, str) or (isinstance(value, list) and _is_ids(value)):
        value = [value]
    if not isinstance(value, list) or not value:
        raise bad_request(
            f"{key}: expected a text, a list of texts, or token ids, got "
            f"{'an empty list' if value == [] else kind_of(value)}",
            key,
        )
    if len(value) > most:
        raise bad_request(f"{key}: expected at most {most} texts, got {len(value)}", key)
    is_text = [isinstance(item, str) for item in value]
    if not all(is_text) and (
        any(is_text) or not all(isinstance(item, list) and _is_ids(item) for item in value)
    ):
        raise bad_request(f"{key}: expected only texts, or only lists of token ids", key)
    return value


def _is_ids(value: Sequence[Any]) -> bool:
    return len(value) > 0 and all(type(item) is int for item in value)


def _flag(body: dict[str, Any], key: str, *, default: bool = False) -> bool:
    value = body.get(key, default)
    if not isinstance(value, bool):
        raise bad_request(f"{key}: expected true or false, got {kind_of(value)}", key)
    return value


def _check_dimensions(wanted: Any, model: ServedModel) -> None:
    has = model.runtime.spec.dimension
    if wanted is not None and (type(wanted) is not int or wanted != has):
        raise RequestError(
            400,
            f"dimensions: vectors of {model.name!r} have {has} and are not shortened, "
            f"got {wanted!r:.40}; leave it out",
            code="invalid_value",
            param="dimensions",
        )


def _prompt(name: Any, model: ServedModel) -> str:
    prompts = model.runtime.spec.prompts
    name = model.runtime.spec.default_prompt if name is None else name
    if name is None:
        return ""
    if not isinstance(name, str) or name not in prompts:
        raise bad_request(
            f"prompt_name: expected one of {sorted(prompts)}, got {name!r:.40}", "prompt_name"
        )
    return prompts[name]


def _spelled(vector: Floats, encoding: str) -> Any:
    if encoding == "float":
        return vector.tolist()
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode("ascii")


def _entry(model: ServedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "fuselage"}
