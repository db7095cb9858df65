"""Bodies of requests: read within bounds, parsed strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.types import Receive, Scope

from .faults import RequestError, bad_request, overloaded

_SHOWN = 40
"""Characters of a client's own text that an error repeats."""


class Buffers:
    """Bytes of all bodies that are held at once.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, size: int) -> None:
        """Count bytes.

        Raises:
            RequestError: 503 when there would be too many.
        """
        if size > self._left:
            raise overloaded("too many large requests at once; try again later")
        self._left -= size

    def give_back(self, size: int) -> None:
        """Count them out."""
        self._left += size


class ClientGoneError(Exception):
    """The client closed the connection before it had an answer."""


async def read_body(scope: Scope, receive: Receive, most: int, buffers: Buffers) -> bytes:
    """Read a body, which counts in the buffers from then on.

    Raises:
        RequestError: 413 when it is, or says that it is, too large; 415 when it is compressed; 503
            when other requests fill the memory.
        ClientGoneError: when the client leaves in between.
    """
    _check_headers(dict(scope["headers"]), most)
    parts, size = [], 0
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            if size + len(part) > most:
                raise _too_large(most)
            buffers.take(len(part))
            size += len(part)
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)
    except BaseException:
        buffers.give_back(size)
        raise


def _check_headers(headers: Mapping[bytes, bytes], most: int) -> None:
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > most:
        raise _too_large(most)
    encoding = headers.get(b"content-encoding", b"identity").lower()
    if encoding not in (b"", b"identity"):
        raise RequestError(
            415,
            f"content-encoding: expected none, got {encoding.decode('latin-1')!r:.{_SHOWN}}; "
            "send the body as it is",
            is_last=True,
        )


def _too_large(most: int) -> RequestError:
    return RequestError(
        413,
        f"the body is larger than the {most:,} bytes a request may have; send fewer texts at once",
        code="request_too_large",
        is_last=True,
    )


def read_object(body: bytes) -> dict[str, Any]:
    """Parse one JSON object.

    Raises:
        RequestError: 400 when it is not UTF-8, no JSON, no object, nested too deep, or holds a key
            twice or a number that is not finite.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad_request(
            f"body: expected UTF-8, got {error.reason} at byte {error.start}"
        ) from None
    try:
        value = json.loads(
            text, parse_float=_finite, parse_constant=_refuse, object_pairs_hook=_unique
        )
    except RecursionError:
        raise bad_request("body: expected JSON, got one that is nested too deep") from None
    except ValueError as error:  # also integers of thousands of digits
        raise bad_request(f"body: expected JSON, got: {error}"[:200]) from None
    if not isinstance(value, dict):
        raise bad_request(f"body: expected a JSON object, got {kind_of(value)}")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _refuse(text)
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:_SHOWN]}, which is not finite")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.{_SHOWN}} twice")
    return found


def check_keys(body: Mapping[str, Any], known: tuple[str, ...], where: str = "body") -> None:
    """Refuse keys that would do nothing.

    Raises:
        RequestError: 400 that names one.
    """
    unknown = sorted(set(body) - set(known))
    if unknown:
        raise bad_request(
            f"{where}: unknown key {unknown[0]!r:.{_SHOWN}}; known are {list(known)}",
            param=unknown[0][:_SHOWN],
        )


def kind_of(value: Any) -> str:
    """The JSON type of a value, with its article."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    kinds: Mapping[type, str] = {str: "a string", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")
