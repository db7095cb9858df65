"""Every request passes here: key, body, time limit, log line, counters, and errors in one place."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import secrets
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .bodies import Buffers, ClientGoneError, read_body
from .faults import RequestError, fault_of, fault_reply, late
from .metrics import Metrics
from .settings import Settings
from .state import ServerState

access = logging.getLogger("fuselage.access")
log = logging.getLogger("fuselage.server")

OPEN = ("/health", "/v2/health/live", "/v2/health/ready")
"""Paths that need no key and answer while the server stops: those that ask how it is."""

_CLIENT_GONE = 499
_IDENTITY = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Front:
    """The outermost ASGI application.

    Args:
        app: the router; it raises what goes wrong, its requests have their body already.
        settings: limits and key.
        state: whether requests are taken.
        metrics: counts them.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, state: ServerState, metrics: Metrics
    ) -> None:
        self._app = app
        self._settings = settings
        self._state = state
        self._metrics = metrics
        self._buffers = Buffers(settings.buffered)
        self._key = None if settings.key is None else settings.key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return  # no lifespan events: the server opens and closes the models
        started = time.perf_counter()
        reply = _Reply(send, _identity(scope))
        self._state.in_flight += 1
        self._metrics.started()
        try:
            await self._answer(scope, receive, reply)
        except ClientGoneError:
            reply.status = _CLIENT_GONE
        finally:
            self._state.in_flight -= 1
            self._note(scope, reply, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        try:
            self._check(scope)
            await self._within_time(scope, receive, reply)
        except ClientGoneError:
            raise
        except HTTPException as error:  # of the router: no such path or method
            fault = RequestError(
                error.status_code,
                f"{scope['path']!r:.80}: {error.detail}; /docs shows what there is",
                allow=(error.headers or {}).get("Allow"),
            )
            await self._refuse(fault, scope, receive, reply)
        except Exception as error:
            fault = fault_of(error)
            if fault.status == 500:
                log.error("request %s failed", reply.identity, exc_info=error)
            await self._refuse(fault, scope, receive, reply)

    async def _refuse(
        self, fault: RequestError, scope: Scope, receive: Receive, reply: _Reply
    ) -> None:
        if not reply.is_started:
            await fault_reply(fault, scope["path"])(scope, receive, reply.send)

    def _check(self, scope: Scope) -> None:
        if scope["path"] in OPEN:
            return
        if self._key is not None and not _has_key(scope, self._key):
            raise RequestError(
                401,
                "expected the server's API key as: Authorization: Bearer KEY",
                code="invalid_api_key",
                is_last=True,
            )
        if not self._state.ready:
            raise RequestError(
                503, "the server is stopping; try another", code="stopping", is_last=True
            )

    async def _within_time(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        seconds = self._settings.timeout
        ends = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(ends):
                body = await read_body(scope, receive, self._settings.max_body, self._buffers)
        except TimeoutError:
            raise RequestError(
                408, f"the body did not arrive within {seconds:g} s", is_last=True
            ) from None
        try:
            async with asyncio.timeout_at(ends):
                await _unless_gone(self._app(scope, _replayed(body), reply.send), receive)
        except TimeoutError:
            raise late(seconds) from None
        finally:
            self._buffers.give_back(len(body))

    def _note(self, scope: Scope, reply: _Reply, seconds: float) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "other")
        self._metrics.answered(path, reply.status, seconds)
        if self._settings.access_log and access.isEnabledFor(logging.INFO):
            client = scope.get("client")
            access.info(
                json.dumps(
                    {
                        "id": reply.identity,
                        "client": client[0] if client else None,
                        "method": scope["method"],
                        "path": scope["path"][:200],
                        "status": reply.status,
                        "milliseconds": round(seconds * 1e3, 2),
                    }
                )
            )


class _Reply:
    """Where an answer goes: adds its request id, notes its status."""

    def __init__(self, send: Send, identity: str) -> None:
        self._send = send
        self.identity = identity
        self.status = 500
        self.is_started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_started = True
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.identity.encode()),
            ]
        await self._send(message)


async def _unless_gone(answer: Any, receive: Receive) -> None:
    """Await an answer, but give it up when the client closes the connection.

    Raises:
        ClientGoneError: then.
    """
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(receive())  # behind the body comes only the end
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGoneError
        work.result()
    finally:
        for task in (work, gone):
            if not task.done():
                task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


def _replayed(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _identity(scope: Scope) -> str:
    """The client's own request id where it is one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _IDENTITY.fullmatch(value):
            return str(value.decode("ascii"))
    return secrets.token_hex(8)


def _has_key(scope: Scope, key: bytes) -> bool:
    given = b""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, given = value.partition(b" ")
            given = given.strip() if kind.lower() == b"bearer" else b""
    return hmac.compare_digest(given, key)
