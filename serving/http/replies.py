"""Answers: JSON without NaN, and JSON with tensors behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response


def json_text(value: Any) -> bytes:
    """Compact ASCII.

    Raises:
        ValueError: when a number is not finite.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def json_reply(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer in JSON."""
    return Response(json_text(value), status, headers, "application/json")
