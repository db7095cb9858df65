"""Good requests among broken ones: who gets which answer, and whether memory stays."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable

import numpy as np

from load.clients import read_answer
from load.servers import Server

Fault = Callable[[int], Awaitable[int]]


def soak(server: Server, texts: list[str], requests: int, clients: int) -> None:
    """Send requests in four parts and print memory between them.

    Half are good; every good answer is held to the first one of its text.
    """
    expected = asyncio.run(_alone(server.port, texts))
    seen: Counter[str] = Counter()
    print(f"memory at start: {server.memory():.1f} MiB", flush=True)
    for part in range(4):
        asyncio.run(_part(server.port, texts, expected, requests // 4, clients, part, seen))
        print(
            f"memory after {(part + 1) * (requests // 4):6}: {server.memory():.1f} MiB", flush=True
        )
    for what, count in sorted(seen.items()):
        print(f"  {what:40} {count}")
    wrong = sum(count for what, count in seen.items() if "WRONG" in what)
    print(f"{sum(seen.values())} requests, {wrong} answered wrong")
    if wrong:
        raise SystemExit(1)


async def _alone(port: int, texts: list[str]) -> list[np.ndarray]:
    answers = []
    for text in texts:
        status, body = await _exchange(port, request(json.dumps({"inputs": text}).encode()))
        assert status == 200, body
        answers.append(np.array(json.loads(body)))
    return answers


async def _part(
    port: int,
    texts: list[str],
    expected: list[np.ndarray],
    requests: int,
    clients: int,
    seed: int,
    seen: Counter[str],
) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2 * len(FAULTS), requests)
    turn = iter(enumerate(kinds.tolist()))

    async def client() -> None:
        for number, kind in turn:
            if kind >= len(FAULTS):
                which = number % len(texts)
                body = json.dumps({"inputs": texts[which]}).encode()
                status, answer = await _exchange(port, request(body))
                is_right = status == 200 and np.allclose(
                    json.loads(answer), expected[which], atol=2e-5
                )
                seen["good: right" if is_right else f"good: WRONG {status}"] += 1
            else:
                name, data, allowed = FAULTS[kind]
                status, _ = await _exchange(port, data, gentle=not name.startswith("cut"))
                verdict = "" if status in allowed else "WRONG "
                seen[f"{name}: {verdict}{status or 'closed'}"] += 1

    await asyncio.gather(*(client() for _ in range(clients)))


def request(body: bytes, *headers: str, path: str = "/embed", length: int | None = None) -> bytes:
    """A request as bytes; ``length`` overrides what it says of its body."""
    size = len(body) if length is None else length
    lines = [f"POST {path} HTTP/1.1", "host: x", "connection: close", f"content-length: {size}"]
    return "\r\n".join([*lines, *headers]).encode() + b"\r\n\r\n" + body


async def _exchange(port: int, data: bytes, *, gentle: bool = True) -> tuple[int, bytes]:
    """Send and read the answer; status 0 when the server closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        if not gentle:
            return 0, b""
        await writer.drain()
        return await asyncio.wait_for(read_answer(reader), 30)
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0, b""
    finally:
        if not gentle:
            writer.transport.abort()
        writer.close()


def _tensor(**changes: object) -> bytes:
    tensor = {"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [1, 2, 3]}
    return json.dumps({"inputs": [tensor | changes]}).encode()


_INFER = "/v2/models/bundle/infer"
_REFUSED = (400,)
FAULTS: tuple[tuple[str, bytes, tuple[int, ...]], ...] = (
    ("malformed JSON", request(b'{"inputs": '), _REFUSED),
    ("non-UTF-8", request(b'{"inputs": "\xff\xfe"}'), _REFUSED),
    ("deep JSON", request(b'{"inputs": ' + b"[" * 50_000), _REFUSED),
    ("huge number", request(b'{"inputs": ' + b"9" * 9000 + b"}"), _REFUSED),
    ("NaN", request(b'{"inputs": NaN}'), _REFUSED),
    ("duplicate key", request(b'{"inputs": "a", "inputs": "b"}'), _REFUSED),
    ("empty text", request(b'{"inputs": ""}'), _REFUSED),
    ("oversize body", request(b"x" * 300_000), (413, 0)),
    ("oversize promise", request(b"x", length=1 << 40), (413,)),
    ("wrong dtype", request(_tensor(datatype="FP32"), path=_INFER), _REFUSED),
    ("wrong shape", request(_tensor(shape=[2, 2]), path=_INFER), _REFUSED),
    ("missing tensors", request(_tensor(), path=_INFER), _REFUSED),
    ("unknown model", request(_tensor(), path="/v2/models/none/infer"), (404,)),
    ("compressed", request(b"x", "content-encoding: gzip"), (415,)),
    ("no HTTP", b"\x16\x03\x01\x00\xff" + b"\0" * 60 + b"\r\n\r\n", (400, 0)),
    ("cut connection", request(b'{"inputs": "a b c d"}'), (0,)),
    ("cut body", request(b'{"inputs": "a b', length=900)[:-3], (0,)),
)
