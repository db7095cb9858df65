"""``/openapi.json``, and a page that shows it without anything from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from .models import ServedModels
from .prediction import OPTIONS
from .replies import json_reply
from .tensors import DATATYPES

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_TEXTS: Schema = {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
_IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_INPUT: Schema = {
    "anyOf": [*_TEXTS["oneOf"], _IDS, {"type": "array", "items": _IDS, "minItems": 1}]
}
_FLAG: Schema = {"type": "boolean"}
_ANY: Schema = {"type": "object"}
_VECTORS: Schema = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
_ERRORS = {
    "400": "The request is at fault; the text says how.",
    "401": "The API key is missing or wrong.",
    "404": "There is no such model or path.",
    "405": "The path takes another method.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is compressed.",
    "500": "The engine or the server failed.",
    "503": "Too much to do, or the server is stopping: try again after Retry-After.",
    "504": "No answer in time.",
}


def _object(required: tuple[str, ...], **properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


class Pages:
    """Endpoints that describe the server.

    Args:
        models: what is served.
        has_key: whether clients must send one.
    """

    def __init__(self, models: ServedModels, *, has_key: bool) -> None:
        self._models = models
        self._has_key = has_key

    def routes(self) -> list[Route]:
        """The document and the page."""
        return [
            Route("/openapi.json", self.document, methods=["GET"]),
            Route("/docs", self.page, methods=["GET"]),
            Route("/", self.page, methods=["GET"]),
        ]

    async def document(self, _: Request) -> Response:
        """OpenAPI 3.1."""
        return json_reply(self._schema())

    async def page(self, _: Request) -> Response:
        """The same for people."""
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(_page(self._schema()), headers={"content-security-policy": policy})

    def _schema(self) -> Schema:
        schema: Schema = {
            "openapi": "3.1.0",
            "info": {
                "title": "fuselage",
                "version": metadata.version("fuselage"),
                "description": "Served here: "
                + ", ".join(f"{model.name} ({model.task})" for model in self._models),
            },
            "paths": self._paths(),
        }
        if self._has_key:
            schema["components"] = {
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}
            }
            schema["security"] = [{"key": []}]
        return schema

    def _paths(self) -> Schema:
        names: Schema = {"type": "string", "enum": list(self._models.names)}
        model = {"name": "name", "in": "path", "required": True, "schema": names}
        options = _object((), **{name: {} for known in OPTIONS.values() for name in known})
        of_model = {"parameters": [model]}
        item: Schema = {"anyOf": [_TEXT, _ANY]}
        inputs: Schema = {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}
        return {
            "/health": _get("Whether requests are taken, and which models there are"),
            "/metrics": _get("Counters for Prometheus", media="text/plain"),
            "/v1/models": _get("All models, in OpenAI's form"),
            "/v1/models/{name}": of_model | _get("One model, in OpenAI's form"),
            "/v1/embeddings": _post(
                "Vectors, in OpenAI's form",
                _object(
                    ("model", "input"),
                    model=names,
                    input=_INPUT,
                    encoding_format={"type": "string", "enum": ["float", "base64"]},
                    dimensions={"type": "integer", "minimum": 1},
                    user={"type": "string"},
                    truncate=_FLAG,
                ),
            ),
            "/embed": _post(
                "Vectors as plain lists",
                _object(
                    ("inputs",),
                    model=names,
                    inputs=_INPUT,
                    prompt_name={"type": "string"},
                    normalize=_FLAG,
                    truncate=_FLAG,
                ),
                answer=_VECTORS,
            ),
            "/predict": _post(
                "What the pipeline of the model's task answers",
                _object(
                    ("inputs",), model=names, inputs=inputs, parameters=options, truncate=_FLAG
                ),
                answer={},
            ),
            "/v2": _get("Name, version and extensions of the server"),
            "/v2/health/live": _get("Whether the process answers"),
            "/v2/health/ready": _get("Whether requests are taken"),
            "/v2/repository/index": _post("All models, in Triton's form", _ANY, answer={}),
            "/v2/models/{name}": of_model | _get("Inputs and outputs of a model"),
            "/v2/models/{name}/ready": of_model | _get("Whether it takes requests"),
            "/v2/models/{name}/infer": of_model
            | _post("Raw tensors; binary data may follow the JSON", _INFER),
        }


_TENSOR = _object(
    ("name", "shape", "datatype"),
    name={"type": "string"},
    shape={"type": "array", "items": {"type": "integer", "minimum": 0}},
    datatype={"type": "string", "enum": list(DATATYPES)},
    data={"type": "array"},
    parameters=_ANY,
)
_INFER = _object(
    ("inputs",),
    id={"type": "string"},
    inputs={"type": "array", "items": _TENSOR, "minItems": 1},
    outputs={"type": "array", "items": _ANY},
    parameters=_ANY,
)


def _get(summary: str, *, media: str = "application/json") -> Schema:
    return {"get": {"summary": summary, "responses": _responses({}, media)}}


def _post(summary: str, body: Schema, *, answer: Schema = _ANY) -> Schema:
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": _responses(answer, "application/json"),
        }
    }


def _responses(answer: Schema, media: str) -> Schema:
    good = {"description": "The answer.", "content": {media: {"schema": answer}}}
    error: Mapping[str, Schema] = {"application/json": {"schema": _object(("error",), error={})}}
    return {"200": good} | {
        status: {"description": text, "content": error} for status, text in _ERRORS.items()
    }


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;"
    "color:#1b2330;background:#fff}code,pre{font:14px/1.45 ui-monospace,monospace}"
    "pre{background:#f3f5f8;padding:1rem;overflow:auto;border-radius:6px}"
    "summary{cursor:pointer;padding:.35rem 0}summary b{display:inline-block;width:3.5rem}"
    "@media(prefers-color-scheme:dark){body{color:#dfe5ee;background:#12161d}"
    "pre{background:#1d232d}}"
)


def _page(schema: Schema) -> str:
    info = schema["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'><title>fuselage</title>"
        f"<style>{_STYLE}</style><h1>fuselage {html.escape(info['version'])}</h1>"
        f"<p>{html.escape(info['description'])}</p>"
        "<p>For programs: <a href=openapi.json>openapi.json</a></p>"
    ]
    for path, methods in schema["paths"].items():
        for method in ("get", "post"):
            if method not in methods:
                continue
            about = methods[method]
            body = about.get("requestBody", {}).get("content", {}).get("application/json", {})
            shown = (
                f"<pre>{html.escape(json.dumps(body['schema'], indent=1))}</pre>" if body else ""
            )
            parts.append(
                f"<details><summary><b>{method.upper()}</b> <code>{html.escape(path)}</code> "
                f"{html.escape(about['summary'])}</summary>{shown}</details>"
            )
    return "".join(parts) + "</html>"
