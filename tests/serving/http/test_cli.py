"""The verb: what it prints, refuses and imports."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fuselage.compiler.cli import run

from .conftest import start


def test_it_starts_without_what_only_the_compiler_needs(embedder: Path) -> None:
    patch = """
import atexit
heavy = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "scipy")
def tell():
    sys.stderr.write(f"loaded: {sorted(set(heavy) & set(sys.modules))}\\n")
atexit.register(tell)
"""
    with start(embedder, patch=patch) as server:
        assert server.stop() == 0
    assert "loaded: []\n" in server.log


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "no bundle: give the folder of one"),
        (("none",), "expected the folder of a bundle"),
        (("--name", "x"), "expected NAME=BUNDLE, got 'x'"),
        (("--name", "a/b=BUNDLE"), "expected a name of letters"),
        (("BUNDLE", "--name", "bundle=BUNDLE"), "are both named 'bundle'"),
        (("BUNDLE", "--host", "256.1.1.1"), "no address to listen on"),
        (("BUNDLE", "--api-key-file", "none"), "the API key cannot be read"),
        (("BUNDLE", "--api-key-file", "SHORT"), "at least 16 ASCII characters"),
        (("BUNDLE", "--target", "abacus"), "abacus"),
    ],
)
def test_wrong_calls_end_with_a_reason(
    arguments: tuple[str, ...],
    reason: str,
    embedder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = tmp_path / "key"
    short.write_text("hunter2\n")
    words = [
        word.replace("BUNDLE", str(embedder)).replace("SHORT", str(short)) for word in arguments
    ]
    assert run(["serve", "--port", "0", *words]) == 1
    shown = capsys.readouterr().err
    assert reason in shown
    assert "hunter2" not in shown


def test_a_taken_port_is_said(embedder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["serve", str(embedder), "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
