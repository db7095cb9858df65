"""Clients that keep a connection, ask, read the answer, and ask again: as cheap as asyncio gets."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import numpy as np


@dataclass
class Load:
    """What clients saw.

    Attributes:
        seconds: of the whole.
        latencies: seconds of each answer with 200.
        statuses: how often each came.
        first: body of the first answer to each text.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    first: dict[int, bytes] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, which: float) -> float:
        """Of the latencies, in milliseconds."""
        return float(np.percentile(self.latencies, which) * 1e3)


def run_clients(port: int, texts: list[str], clients: int, seconds: float) -> Load:
    """Send texts to ``/embed`` for some seconds, from a second process.

    Args:
        port: on this machine.
        texts: sent in turn.
        clients: at once, each with one connection.
        seconds: to run.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_main, args=(theirs, port, texts, clients, seconds)
    )
    process.start()
    theirs.close()
    try:
        load: Load = ours.recv()
    finally:
        process.join()
    return load


def _main(pipe: Connection, port: int, texts: list[str], clients: int, seconds: float) -> None:
    pipe.send(asyncio.run(_clients(port, texts, clients, seconds)))


async def _clients(port: int, texts: list[str], clients: int, seconds: float) -> Load:
    load = Load()
    requests = [_request(text) for text in texts]
    turn = iter(range(1 << 60))
    begun = time.perf_counter()
    ends = begun + seconds
    await asyncio.gather(*(_client(port, requests, turn, ends, load) for _ in range(clients)))
    load.seconds = time.perf_counter() - begun
    return load


async def _client(
    port: int, requests: list[bytes], turn: Iterator[int], ends: float, load: Load
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (sent := time.perf_counter()) < ends:
        which = next(turn) % len(requests)
        writer.write(requests[which])
        status, body = await read_answer(reader)
        load.statuses[status] += 1
        if status == 200:
            load.latencies.append(time.perf_counter() - sent)
            load.first.setdefault(which, body)
    writer.close()


def _request(text: str) -> bytes:
    body = json.dumps({"inputs": text}).encode()
    head = f"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer with a content-length."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    length = next(
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length")
    )
    return status, await reader.readexactly(length)
