"""uvicorn's HTTP/1.1 protocol with bounds on what a client may leave open."""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEADERS = 64 << 10
"""Bytes of a request's line and headers; uvicorn on httptools has no bound of its own."""

_FLUSH = 5.0
"""Seconds that the last bytes of an answer may take on a connection that is being closed."""


class BoundedProtocol(HttpToolsProtocol):  # type: ignore[misc]
    """One connection.

    A client must send whole headers in time and within `MOST_HEADERS`, and read its answer in
    time; else the connection is cut. `header_timeout`, `write_timeout` and `connections` are set
    on a subclass, because uvicorn makes the instances.
    """

    header_timeout = 10.0
    write_timeout = 30.0
    most_connections = 1024

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waiting: TimerHandle | None = None
        self._writing: TimerHandle | None = None
        self._in_headers = True
        self._header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the clock of the first headers; refuse what is too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n"
                b"connection: close\r\n\r\n"
            )
            transport.close()
            return
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        self._stop_waiting()
        self._stop_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to headers."""
        if self.transport.is_closing():
            return
        if self._in_headers:
            self._header_bytes += len(data)
            if self._waiting is None:
                self._wait_for_headers()
        super().data_received(data)
        if self._in_headers and self._header_bytes > MOST_HEADERS:
            self._cut()

    def on_headers_complete(self) -> None:
        """The headers came in time."""
        self._in_headers = False
        self._header_bytes = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What comes next are headers again."""
        self._in_headers = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client reads slower than we write: start a clock."""
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.write_timeout, self._cut)

    def resume_writing(self) -> None:
        """It reads."""
        self._stop_writing()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, by force when its client does not read the rest."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(_FLUSH, self._cut)

    def _wait_for_headers(self) -> None:
        self._waiting = self.loop.call_later(self.header_timeout, self._cut)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _stop_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _cut(self) -> None:
        self.transport.abort()
