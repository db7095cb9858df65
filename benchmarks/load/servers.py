"""Servers in processes of their own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PEER = Path(__file__).with_name("peer.py")


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        port: on this machine.
        pid: of its process.
    """

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Spent so far, in user and system mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident MiB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@contextlib.contextmanager
def fuselage_server(bundle: Path, *options: str) -> Iterator[Server]:
    """``fuselage serve``, in one process."""
    code = "import sys\nfrom fuselage.compiler.cli import run\nsys.exit(run(sys.argv[1:]))"
    words = ["serve", "--port", "0", "--name", f"bundle={bundle}", "--no-access-log", *options]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().rpartition(":")[2])
        yield Server(port, process.pid)
        process.terminate()
        if process.wait(60):
            raise SystemExit(f"fuselage serve ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def peer_server(bundle: Path) -> Iterator[Server]:
    """The handler of `peer`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(PEER), str(bundle), str(port)])
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield Server(port, process.pid)
    finally:
        process.kill()
        process.wait()
