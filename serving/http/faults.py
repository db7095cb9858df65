"""What a client is told when a request is not answered."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from ...errors import (
    DeadlineError,
    DrainingError,
    FeedError,
    FuselageError,
    OverloadError,
    TextError,
)
from .replies import json_reply

RETRY_AFTER = 1
"""Seconds after which a refused client may try again: queues empty within a batch or two."""


class RequestError(FuselageError):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        text: for the client.
        code: what programs tell faults apart by, in the form of OpenAI.
        param: the key of the body at fault.
        is_last: whether the connection closes behind the answer, because the rest of the request
            was not read.
        allow: methods that the path takes, with 405.
    """

    def __init__(
        self,
        status: int,
        text: str,
        *,
        code: str | None = None,
        param: str | None = None,
        is_last: bool = False,
        allow: str | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.param = param
        self.is_last = is_last
        self.allow = allow


def bad_request(text: str, param: str | None = None) -> RequestError:
    """400: the client's fault."""
    return RequestError(400, text, code="invalid_value", param=param)


def overloaded(text: str) -> RequestError:
    """503, to be tried again."""
    return RequestError(503, text, code="overloaded")


def late(seconds: float) -> RequestError:
    """504: the answer took longer than a request may take."""
    return RequestError(
        504,
        f"no answer within {seconds:g} s; send fewer or shorter texts, or try again later",
        code="timeout",
    )


def fault_of(error: Exception) -> RequestError:
    """The answer to an exception: texts and tensors are the client's fault, the rest is ours.

    Nothing of an error that is not fuselage's own reaches the client.
    """
    if isinstance(error, RequestError):
        return error
    if isinstance(error, TextError | FeedError):
        return bad_request(str(error))
    if isinstance(error, OverloadError | DrainingError):
        return overloaded(str(error))
    if isinstance(error, DeadlineError):
        return RequestError(504, str(error), code="timeout")
    if isinstance(error, FuselageError):
        return RequestError(500, str(error), code="engine_error")
    return RequestError(500, "internal error; the server's log says more", code="internal_error")


def fault_reply(fault: RequestError, path: str) -> Response:
    """A fault in the form of the protocol that a path belongs to.

    Sources: https://platform.openai.com/docs/guides/error-codes below ``/v1/``; elsewhere
    ``{"error": text}`` of the Open Inference Protocol, which /embed and /predict share.
    """
    headers: dict[str, str] = {}
    if fault.status == 503:
        headers["retry-after"] = str(RETRY_AFTER)
    if fault.status == 401:
        headers["www-authenticate"] = "Bearer"
    if fault.allow is not None:
        headers["allow"] = fault.allow
    if fault.is_last:
        headers["connection"] = "close"
    body: Mapping[str, object] = {"error": str(fault)}
    if path.startswith("/v1/"):
        body = {
            "error": {
                "message": str(fault),
                "type": _kind(fault.status),
                "param": fault.param,
                "code": fault.code,
            }
        }
    return json_reply(body, status=fault.status, headers=headers)


def _kind(status: int) -> str:
    if status == 401:
        return "authentication_error"
    return "invalid_request_error" if status < 500 else "server_error"
