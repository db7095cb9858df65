"""How a server listens and what it refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import FuselageError

LEAST_KEY = 16
"""Characters of an API key at least: shorter ones are guessed."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Address, limits and key of a server.

    Attributes:
        host: address to listen on; only this machine reaches the default.
        port: 0 for a free one.
        max_queue: requests of one model that wait or compute at once; more are refused.
        max_body: bytes of one request.
        max_texts: texts of one request.
        buffered: bytes of all requests that are held at once.
        timeout: seconds from a request's first byte to its answer.
        header_timeout: seconds from a connection, or from a request's first byte, to the end of
            its headers.
        idle_timeout: seconds that a connection stays open between requests.
        drain: seconds that requests under way have after the server was told to stop.
        connections: open at once; more are refused.
        key: what clients must send; None for no key.
        access_log: whether every request leaves a line.

    Raises:
        FuselageError: naming the value that cannot be.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_queue: int = 256
    max_body: int = 8 << 20
    max_texts: int = 1024
    buffered: int = 256 << 20
    timeout: float = 30.0
    header_timeout: float = 10.0
    idle_timeout: float = 60.0
    drain: float = 30.0
    connections: int = 1024
    key: str | None = field(default=None, repr=False)
    access_log: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise FuselageError(f"port: expected 0 to 65535, got {self.port}")
        for name in ("max_queue", "max_body", "max_texts", "buffered", "connections"):
            if vars(self)[name] < 1:
                raise FuselageError(f"{name}: expected at least 1, got {vars(self)[name]}")
        for name in ("timeout", "header_timeout", "idle_timeout", "drain"):
            if not 0 < vars(self)[name] < math.inf:
                raise FuselageError(
                    f"{name}: expected seconds, more than 0, got {vars(self)[name]}"
                )
        if self.key is not None:
            _check_key(self.key)


def read_key(file: Path) -> str:
    """The key that a file holds, without the line's end.

    Raises:
        FuselageError: when the file cannot be read or holds no usable key; the message never
            shows it.
    """
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise FuselageError(f"{file}: the API key cannot be read: {reason}") from None
    _check_key(key)
    return key


def _check_key(key: str) -> None:
    if len(key) < LEAST_KEY or not all("!" <= sign <= "~" for sign in key):
        raise FuselageError(
            f"API key: expected at least {LEAST_KEY} ASCII characters without blanks, got "
            f"{len(key)} characters; make one with: openssl rand -hex 32"
        )
