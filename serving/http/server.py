"""Run the application until the process is told to stop, then answer what is under way."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from ...engines.text.encoder import TruncationWarning
from ...errors import FuselageError
from .app import Application
from .protocol import BoundedProtocol
from .settings import Settings

_BACKLOG = 1024
_POLL = 0.02
_LINGER = 0.25
"""Seconds behind the last answer in which others still hear that the server stops."""

log = logging.getLogger("fuselage.server")


def bind(settings: Settings) -> socket.socket:
    """Open the address, so that a taken one is known before any bundle is opened.

    Raises:
        FuselageError: naming what is wrong with it.
    """
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise FuselageError(f"--host {settings.host}: no address to listen on: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise FuselageError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another with --port (0: any free one)"
        ) from error
    return listener


def address_of(listener: socket.socket) -> str:
    """URL of an open address."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(application: Application, listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Answer until SIGTERM or SIGINT, then those requests that are under way.

    Args:
        application: what answers; it is closed in the end.
        listener: from `bind`; it is closed in the end.
        ready: told the address once requests are taken.
    """
    settings = application.settings
    protocol = type(
        "_Protocol",
        (BoundedProtocol,),
        {
            "header_timeout": settings.header_timeout,
            "write_timeout": settings.timeout,
            "most_connections": settings.connections,
        },
    )
    config = uvicorn.Config(
        application,
        http=protocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=max(1, round(settings.idle_timeout)),
        timeout_graceful_shutdown=max(1, round(settings.drain)),
    )
    _log_to_stderr()
    # requests are refused, or say themselves that their texts may be cut
    warnings.simplefilter("ignore", TruncationWarning)
    try:
        asyncio.run(_Drained(config, application, listener, ready).serve([listener]))
    finally:
        application.models.close()
        listener.close()


class _Drained(uvicorn.Server):  # type: ignore[misc]
    """Told to stop, it first refuses new requests, and ends behind the last of the old ones."""

    def __init__(
        self,
        config: uvicorn.Config,
        application: Application,
        listener: socket.socket,
        ready: Callable[[str], None],
    ) -> None:
        super().__init__(config)
        self._application = application
        self._listener = listener
        self._ready = ready
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready(address_of(self._listener))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A stop that was asked for is a success: the signal is not raised again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self._draining is not None:  # told twice: do not wait
            self.should_exit = self.force_exit = True
            return
        self._application.state.ready = False
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        loop, state = asyncio.get_running_loop(), self._application.state
        ends = loop.time() + self._application.settings.drain
        quiet = loop.time()
        while loop.time() < min(ends, quiet + _LINGER):
            await asyncio.sleep(_POLL)
            if state.in_flight:
                quiet = loop.time()
        if state.in_flight:
            log.warning("%d requests were cut off at the end of the drain", state.in_flight)
        self.should_exit = True


def _log_to_stderr() -> None:
    """One line a record, for whatever collects the logs of this machine."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("fuselage.access")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    for name in ("fuselage.server", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING if name == "fuselage.server" else logging.ERROR)
