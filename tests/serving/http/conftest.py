"""A real server in a process of its own, on a free port of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

import fuselage

SIZES = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
LABELS = {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
TASKS = {"BertModel": "embedding"}


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build a random BERT of an architecture, as fp32 on ort-cpu."""
    built: dict[str, Path] = {}

    def build(architecture: str, **config: Any) -> Path:
        if architecture not in built:
            folder = tmp_path_factory.mktemp(architecture)
            written = {"model_type": "bert", "architectures": [architecture]} | SIZES | config
            (folder / "config.json").write_text(json.dumps(written))
            built[architecture] = folder / "bundle"
            fuselage.build(
                str(folder),
                out=built[architecture],
                precision="fp32",
                targets="ort-cpu",
                task=TASKS.get(architecture, "auto"),
                weights="random",
            )
        return built[architecture]

    return build


@dataclass
class Running:
    """A server process.

    Attributes:
        address: URL.
        process: its own.
        log: its stderr, line by line.
    """

    address: str
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=30, trust_env=False, **options)

    def raw(self, data: bytes, *, seconds: float = 20) -> bytes:
        """Send bytes as they are; everything that comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(data)
            parts = []
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                while part := connection.recv(65536):
                    parts.append(part)
            return b"".join(parts)

    def memory(self) -> int:
        """Resident bytes."""
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20)


@contextlib.contextmanager
def start(*arguments: str | Path, key: str | None = None, patch: str = "") -> Iterator[Running]:
    """Run ``fuselage serve`` on a free port, in one process, until the block ends.

    Args:
        arguments: of the verb.
        key: API key in the environment.
        patch: Python that runs in the server first, to make an engine slow or to fail.
    """
    code = (
        f"import sys\n{patch}\nfrom fuselage.compiler.cli import run\nsys.exit(run(sys.argv[1:]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "FUSELAGE_API_KEY"}
    if key is not None:
        environment["FUSELAGE_API_KEY"] = key
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--port", "0", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    log: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        line = process.stdout.readline()
        assert line.startswith("serving on http://"), (line, log)
        yield Running(line.split()[-1], process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()


SLOW = """
import time
from fuselage.engines.ort.engine import OrtEngine
_real_run = OrtEngine.run
def slow(self, feeds):
    time.sleep({seconds})
    return _real_run(self, feeds)
OrtEngine.run = slow
"""


@pytest.fixture(scope="session")
def embedder(bundle: Callable[..., Path]) -> Path:
    return bundle("BertModel")


@pytest.fixture(scope="session")
def classifier(bundle: Callable[..., Path]) -> Path:
    return bundle("BertForSequenceClassification", **LABELS)


@pytest.fixture(scope="session")
def server(embedder: Path, classifier: Path) -> Iterator[Running]:
    """Two bundles, ``tiny`` and ``stars``, with tight bounds."""
    with start(
        "--name", f"tiny={embedder}", "--name", f"stars={classifier}", "--max-body", "0.25"
    ) as running:
        yield running


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client
