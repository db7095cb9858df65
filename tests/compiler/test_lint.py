"""``fuselage lint``, and a build that the lint ends or annotates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import pytest

from fuselage.compiler.checks.traps import refuse_traps
from fuselage.compiler.cli import run
from fuselage.compiler.precision import Assignment
from fuselage.compiler.progress import Journal, Silent
from fuselage.compiler.recipe import Request
from fuselage.compiler.stages.context import Context
from fuselage.compiler.stages.lower import LoweredGraph
from fuselage.errors import BuildError
from fuselage.graph.model import Graph

HEADER = '<ir_version: 11, opset_import: ["" : 23]>'
PLAIN = "g (float[b, 4] x) => (float[b, 4] y) { y = Abs(x) }"
SOFTCAP = """g (float[b, 4, s, 64] q, float[b, 4, s, 64] k, float[b, 4, s, 64] v) =>
    (float[b, 4, s, 64] y) { y = Attention <softcap = 30.0> (q, k, v) }"""
UNLINKED = """g (float[b, 4] x, float[c, 4] z, float[d, 4] u) => (float[b, 4] y)
    { h = Add(x, z) k = Add(x, u) y = Add(h, k) }"""
FLOAT32 = SOFTCAP.replace(" <softcap = 30.0>", "")

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return call


def model_of(text: str) -> ir.Model:
    return ir.from_onnx_text(HEADER + text)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        ir.save(model_of(text), tmp_path / "in.onnx")
        return tmp_path / "in.onnx"

    return write


def test_a_clean_graph_exits_with_0(cli: Cli, save: Callable[[str], Path]) -> None:
    code, out, err = cli("lint", save(PLAIN))
    assert (code, out) == (0, "")
    assert err.endswith("in.onnx for tensorrt-rtx: errors 0, warnings 0")


def test_an_error_exits_with_1_and_warnings_do_not(cli: Cli, save: Callable[[str], Path]) -> None:
    code, out, _ = cli("lint", save(SOFTCAP), "--json")
    facts = json.loads(out.splitlines()[-1])
    assert (code, facts["errors"], facts["warnings"]) == (1, 1, 1)
    assert [(f["rule"], f["node"]) for f in facts["findings"]] == [
        ("attention-attribute", "y"), ("attention-float32", "y"),
    ]  # fmt: skip
    assert facts["findings"][0]["message"].startswith("softcap 30: the parser refuses it; spell")
    assert "attention-attribute" in out.splitlines()[4]
    code, out, _ = cli("lint", save(FLOAT32), "--json")
    assert (code, json.loads(out.splitlines()[-1])["warnings"]) == (0, 1)


def test_options_reach_the_lint(cli: Cli, save: Callable[[str], Path]) -> None:
    assert "errors 0, warnings 0" in cli("lint", save(FLOAT32), "--precision", "fp16")[2]
    arguments = ("--precision", "bf16", "--compute-capability", "SM75")
    code, out, err = cli("lint", save(FLOAT32), *arguments, "--target", "tensorrt", "--json")
    assert (code, err.endswith("for tensorrt: errors 0, warnings 1")) == (0, True)
    assert "hardware-type" in out


@pytest.mark.parametrize(("option", "value", "message"), [
    ("--target", "ort-cpu", "target 'ort-cpu': expected one of tensorrt-rtx, tensorrt"),
    ("--precision", "auto", "precision 'auto': expected one of fp32, fp16, bf16, int8"),
    ("--compute-capability", "8.9", "compute capability '8.9': expected SM and a number, as SM89"),
])  # fmt: skip
def test_unknown_options_are_refused(
    cli: Cli, save: Callable[[str], Path], option: str, value: str, message: str
) -> None:
    code, _, err = cli("lint", save(PLAIN), option, value)
    assert (code, message in err) == (1, True)


def test_a_missing_file_is_one_message(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("lint", tmp_path / "none.onnx")
    assert code == 1
    assert err.endswith("none.onnx: no such file; expected an ONNX model")


def test_an_error_ends_the_build_before_tensorrt_sees_the_graph() -> None:
    journal = Journal(Silent())
    with pytest.raises(BuildError, match="tensorrt-rtx cannot build this graph: attention-attribu"):
        refuse_traps(Graph(model_of(SOFTCAP)), "tensorrt-rtx", (), journal)
    assert journal.notes == []


def test_every_build_is_linted(tmp_path: Path) -> None:
    missing: Any = None  # the stage fails before it needs a source or a bundle
    request = Request(model="m", out=tmp_path, verify="off")
    assignment = Assignment({"tensorrt-rtx": "fp32"}, ())
    journal = Journal(Silent())
    context = Context(
        request=request, source=missing, recipe={}, assignment=assignment, journal=journal,
        writer=missing, runner=missing,
    )  # fmt: skip
    canonical: Any = SimpleNamespace(load=lambda: Graph(model_of(SOFTCAP)))
    lowered = LoweredGraph(context, "tensorrt-rtx", canonical, None)
    with pytest.raises(BuildError, match="softcap 30: the parser refuses it"):
        lowered.make(tmp_path, journal)


def test_warnings_are_one_note_a_rule() -> None:
    journal = Journal(Silent())
    refuse_traps(Graph(model_of(UNLINKED)), "tensorrt", (), journal)
    (note,) = journal.notes
    assert note.startswith("tensorrt: unlinked-dims at 'h' (and 1 more): Add needs 'b' and 'c' to")


def test_what_the_builder_handles_is_no_note() -> None:
    journal = Journal(Silent())
    refuse_traps(Graph(model_of(FLOAT32)), "tensorrt-rtx", (), journal)
    assert journal.notes == []


def test_gpus_asked_for_are_linted() -> None:
    text = FLOAT32.replace("float[", "bfloat16[")
    journal = Journal(Silent())
    refuse_traps(Graph(model_of(text)), "tensorrt-rtx", ("SM75",), journal)
    assert "BFLOAT16, which SM75 lacks" in journal.notes[0]


def test_other_targets_pass() -> None:
    refuse_traps(Graph(model_of(SOFTCAP)), "ort-cpu", (), Journal(Silent()))
