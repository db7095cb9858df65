"""--verify, --require and roll-backs on the command line, with planted faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.cli import run
from fuselage.passes import presets
from fuselage.passes.base import Pass, PassResult, result

Cli = Callable[..., tuple[int, str, str]]

ERF = "d = Div(x, root)  e = Erf(d)  a = Add(e, one)  m = Mul(x, a)  y = Mul(m, half)"
ODD = ERF.replace("half", "third")
CONSTANTS = {"half": 0.5, "one": 1.0, "root": 1.41421356, "third": 0.33}


@dataclass(frozen=True)
class ScaleUp(Pass):
    """A faulty pass: every Gelu is followed by its result plus itself."""

    name = "scale-up"

    def call(self, model: ir.Model) -> PassResult:
        """Double what goes into the first output."""
        node = model.graph.outputs[0].producer()
        assert node is not None
        old = node.outputs[0]
        new = ir.node("Add", [old, old])
        old.name, new.outputs[0].name = f"{old.name}_half", old.name
        new.outputs[0].type, new.outputs[0].shape = old.type, old.shape
        model.graph.append(new)
        model.graph.outputs[0] = new.outputs[0]
        return result(model, 1)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in this process; (exit code, stdout, stderr), each on one line."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return call


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a faulty pass in the middle of the canonical ones."""
    middle = len(presets.CANONICAL) // 2
    passes = (*presets.CANONICAL[:middle], ScaleUp(), *presets.CANONICAL[middle:])
    monkeypatch.setattr(presets, "CANONICAL", passes)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[str], Path]:
    def write(body: str) -> Path:
        tensors = [
            ir.tensor(np.float32(number), name=name)
            for name, number in CONSTANTS.items()
            if f", {name})" in body
        ]
        text = f"""<ir_version: 10, opset_import: ["": 23]>
        net (float[batch, 4] x) => (float[batch, 4] y) {{ {body} }}"""
        model = ir.from_onnx_text(text, tensors)
        for node in model.graph:
            node.name = f"n_{node.outputs[0].name}"
        path = tmp_path / "in.onnx"
        ir.save(model, path)
        return path

    return write


def facts_of(out: str) -> dict[str, object]:
    facts: dict[str, object] = json.loads(out.splitlines()[-1])
    return facts


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("verify", ["each", "final"])
def test_a_faulty_pass_is_rolled_back_and_named(
    cli: Cli, save: Callable[[str], Path], tmp_path: Path, verify: str
) -> None:
    out = tmp_path / "out.onnx"
    code, text, err = cli("optimize", save(ERF), out, "--verify", verify, "--json")
    assert code == 0
    assert "note: pass scale-up was rolled back: output 'y' at x [3, 4]" in err
    facts = facts_of(text)
    assert [entry["name"] for entry in facts["rolled_back"]] == ["scale-up"]  # type: ignore[attr-defined]
    assert facts["operators"] == {"Gelu": 1}
    code, text, _ = cli("explain", tmp_path / "in.onnx", "--verify", verify)
    assert code == 0
    assert "rolled back: output 'y'" in " ".join(text.split())


@pytest.mark.usefixtures("faulty")
def test_off_lets_it_through_and_says_so(
    cli: Cli, save: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    code, text, err = cli("optimize", save(ERF), out, "--verify", "off", "--json")
    assert code == 0
    assert "note: numbers were not checked, as asked by --verify off" in err
    facts = facts_of(text)
    assert facts["operators"] == {"Gelu": 1, "Add": 1}
    assert facts["numbers"] == {
        "verify": "off",
        "not_checked": ["numbers were not checked, as asked by --verify off"],
    }


def test_a_graph_that_cannot_run_is_optimised_and_said_to_be_unchecked(
    cli: Cli, save: Callable[[str], Path], tmp_path: Path
) -> None:
    path = save(f"{ERF.replace('y =', 'z =')}  y = RandomNormalLike(z)")
    code, text, err = cli("optimize", path, tmp_path / "out.onnx", "--json")
    assert code == 0
    assert "note: numbers were not checked: the graph draws random numbers" in err
    assert facts_of(text)["rolled_back"] == []
    assert facts_of(text)["operators"] == {"Gelu": 1, "RandomNormalLike": 1}


@pytest.mark.parametrize("verb", ["optimize", "explain"])
def test_a_block_that_is_left_fails_with_its_reason(
    cli: Cli, save: Callable[[str], Path], tmp_path: Path, verb: str
) -> None:
    out = tmp_path / "out.onnx"
    arguments = (verb, save(ODD), *((out,) if verb == "optimize" else ()))
    code, _, err = cli(*arguments, "--require", "attention=all", "--require", "gelu=all")
    assert code == 1
    assert "gelu=all was required, but 0 of 1 are fused (n_" in err
    assert "x is multiplied by 0.33 erf + 0.33, not 0.5 erf + 0.5" in err
    assert "attention=all was" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx"]
    code, _, _ = cli(*arguments, "--require", "attention=all,gelu>=0")
    assert code == 0


def test_explain_lists_what_is_left_as_table_and_json(
    cli: Cli, save: Callable[[str], Path]
) -> None:
    code, text, _ = cli("explain", save(ODD), "--json")
    assert code == 0
    words = " ".join(text.split())
    assert "gelu │ 1 │ 0 │ 1" in words
    assert "x is multiplied by 0.33 erf + 0.33, not 0.5 erf + 0.5" in words
    fusion = facts_of(text)["fusion"]
    (refusal,) = fusion["gelu"]["refusals"]  # type: ignore[index]
    assert refusal["reason"] == "x is multiplied by 0.33 erf + 0.33, not 0.5 erf + 0.5"
    assert refusal["node"].startswith("n_")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--verify", "some", "verify 'some': expected one of each, final, off"),
        ("--require", "attention", "requirement 'attention': expected KIND=all or KIND>=NUMBER"),
        ("--require", "magic=all", "with KIND one of attention_mask, attention, "),
    ],
)
def test_other_words_are_refused_before_the_work(
    cli: Cli, save: Callable[[str], Path], tmp_path: Path, option: str, value: str, message: str
) -> None:
    path = save(ERF)
    for arguments in (
        ("optimize", path, tmp_path / "out.onnx"),
        ("explain", path),
        ("build", "minilm", "--out", tmp_path / "b", "--target", "ort-cpu"),
    ):
        code, _, err = cli(*arguments, option, value)
        assert (code, message in err) == (1, True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.onnx"]
