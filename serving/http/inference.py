"""The Open Inference Protocol, version 2: raw tensors to the engine of a bundle."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .bodies import check_keys, kind_of, read_object
from .faults import RequestError, bad_request
from .models import VERSION, ServedModel, ServedModels
from .replies import json_reply, json_text
from .state import ServerState
from .tensors import described, read_inputs, written

_HEADER = "inference-header-content-length"
_UNSUPPORTED = ("sequence_id", "sequence_start", "sequence_end", "priority")


class InferenceProtocol:
    """Endpoints below ``/v2``.

    Args:
        models: what is served.
        state: whether the server takes requests.
    """

    def __init__(self, models: ServedModels, state: ServerState) -> None:
        self._models = models
        self._state = state

    def routes(self) -> list[Route]:
        """Of the whole protocol, each model also below its one version."""
        model = "/v2/models/{name}"
        routes = [
            Route("/v2", self.server, methods=["GET"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
            Route("/v2/repository/index", self.index, methods=["POST"]),
        ]
        for prefix in (model, model + "/versions/{version}"):
            routes += [
                Route(prefix, self.model, methods=["GET"]),
                Route(prefix + "/ready", self.model_ready, methods=["GET"]),
                Route(prefix + "/infer", self.infer, methods=["POST"]),
            ]
        return routes

    async def server(self, _: Request) -> Response:
        """Name, version, extensions."""
        version = metadata.version("fuselage")
        extensions = ["binary_tensor_data", "model_repository"]
        return json_reply({"name": "fuselage", "version": version, "extensions": extensions})

    async def live(self, _: Request) -> Response:
        """The process answers."""
        return json_reply({"live": True})

    async def ready(self, _: Request) -> Response:
        """It takes requests: 503 once it was told to stop."""
        return json_reply({"ready": self._state.ready}, status=200 if self._state.ready else 503)

    async def index(self, _: Request) -> Response:
        """All models, in the form of Triton's repository extension."""
        state = "READY" if self._state.ready else "UNAVAILABLE"
        return json_reply(
            [
                {"name": name, "version": VERSION, "state": state, "reason": ""}
                for name in self._models.names
            ]
        )

    async def model(self, request: Request) -> Response:
        """Inputs and outputs of a model."""
        model = self._found(request)
        engine = model.runtime.engine
        return json_reply(
            {
                "name": model.name,
                "versions": [VERSION],
                "platform": f"fuselage_{engine.target}",
                "inputs": described(engine.inputs),
                "outputs": described(engine.outputs),
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """As the server is."""
        name = self._found(request).name
        is_ready = self._state.ready
        return json_reply({"name": name, "ready": is_ready}, status=200 if is_ready else 503)

    async def infer(self, request: Request) -> Response:
        """Tensors in, tensors out."""
        model = self._found(request)
        head, tail = _split(await request.body(), request.headers.get(_HEADER))
        body = read_object(head)
        check_keys(body, ("id", "inputs", "outputs", "parameters"))
        wanted = _wanted_outputs(body, model)
        feeds = read_inputs(body.get("inputs"), tail, model.runtime.engine.inputs)
        identity = body.get("id")
        if identity is not None and not isinstance(identity, str):
            raise bad_request(f"id: expected a string, got {kind_of(identity)}")
        with model.admission.one():
            answers = await model.infer(feeds)
        outputs, parts = [], []
        for name, binary in wanted.items():
            entry, data = written(name, answers[name], binary=binary)
            outputs.append(entry)
            parts.append(data)
        reply: dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
        if identity is not None:
            reply["id"] = identity
        return _joined(reply | {"outputs": outputs}, parts, is_binary=any(wanted.values()))

    def _found(self, request: Request) -> ServedModel:
        model = self._models.named(request.path_params["name"])
        version = request.path_params.get("version", VERSION)
        if version != VERSION:
            raise RequestError(
                404, f"model {model.name!r} has only the version {VERSION}, got {version!r:.40}"
            )
        return model


def _split(body: bytes, length: str | None) -> tuple[bytes, bytes]:
    if length is None:
        return body, b""
    if not (length.isascii() and length.isdigit()) or int(length[:20]) > len(body):
        raise bad_request(
            f"{_HEADER}: expected at most the {len(body)} bytes of the body, got {length!r:.40}"
        )
    return body[: int(length)], body[int(length) :]


def _joined(reply: dict[str, Any], parts: list[bytes], *, is_binary: bool) -> Response:
    if not is_binary:
        return json_reply(reply)
    head = json_text(reply)
    return Response(
        b"".join([head, *parts]),
        headers={_HEADER: str(len(head))},
        media_type="application/octet-stream",
    )


def _wanted_outputs(body: dict[str, Any], model: ServedModel) -> dict[str, bool]:
    """Name of each output that is asked for, and whether it is as binary data."""
    parameters = _parameters(body, "body")
    for name in _UNSUPPORTED:
        if name in parameters:
            raise bad_request(f"parameters: {name} is not supported; leave it out")
    by_default = _flag(parameters.get("binary_data_output", False), "binary_data_output")
    names = [spec.name for spec in model.runtime.engine.outputs]
    asked = body.get("outputs")
    if not asked and (asked is None or isinstance(asked, list)):
        return dict.fromkeys(names, by_default)
    if not isinstance(asked, list) or not all(isinstance(item, dict) for item in asked):
        raise bad_request("outputs: expected a list of objects")
    wanted: dict[str, bool] = {}
    for item in asked:
        name = item.get("name")
        if not isinstance(name, str) or name not in names or name in wanted:
            raise bad_request(f"outputs: expected each of {names} at most once, got {name!r:.40}")
        own = _parameters(item, f"output {name!r}")
        check_keys(own, ("binary_data",), f"output {name!r}: parameters")
        wanted[name] = _flag(own.get("binary_data", by_default), "binary_data")
    return wanted


def _parameters(body: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = body.get("parameters", {})
    if not isinstance(parameters, dict):
        raise bad_request(f"{where}: parameters: expected an object, got {kind_of(parameters)}")
    return parameters


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise bad_request(f"{name}: expected true or false, got {kind_of(value)}")
    return value
