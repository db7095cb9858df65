"""The command line: results, exit codes, and one clear message for each kind of bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.cli.build import _default_out as default_out
from fuselage.compiler.pipeline import _verdict_text

Cli = Callable[..., tuple[int, str, str]]


def graph_text(opset: int = 23) -> str:
    return f"""<ir_version: 10, opset_import: ["": {opset}]>
        small (float[batch, 4] x) => (float[batch, 4] y)
        <float half = {{0.5}}, float one = {{1.0}}, float root = {{1.41421356}}>
        {{ d = Div(x, root)  e = Erf(d)  a = Add(e, one)  m = Mul(x, a)  y = Mul(m, half) }}"""


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    path = tmp_path / "in.onnx"
    ir.save(ir.from_onnx_text(graph_text()), path)
    return path


def test_optimize_rewrites_a_foreign_graph(cli: Cli, onnx_file: Path, tmp_path: Path) -> None:
    code, out, err = cli("optimize", onnx_file, tmp_path / "out.onnx", "--json")
    assert code == 0
    facts = json.loads(out.splitlines()[-1])
    assert facts["fusion"]["gelu"] == {"found": 1, "fused": 1, "refusals": []}
    assert facts["numbers"] == {"verify": "final", "not_checked": []}
    assert facts["rolled_back"] == []
    assert facts["operators"] == {"Gelu": 1}
    assert "5 nodes became 1" in err
    assert ir.load(tmp_path / "out.onnx").graph[0].op_type == "Gelu"


def test_optimize_refuses_int8_and_unknown_targets(
    cli: Cli, onnx_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    code, _, err = cli("optimize", onnx_file, out, "--precision", "int8")
    assert (code, "use fuselage build" in err) == (1, True)
    code, _, err = cli("optimize", onnx_file, out, "--target", "cuda")
    assert code == 1
    assert "target 'cuda': expected canonical or one of tensorrt, tensorrt-rtx" in err
    code, _, err = cli("optimize", onnx_file, out, "--target", "ort-cpu", "--precision", "fp16")
    assert code == 1
    assert "ort-cpu cannot do fp16 fast" in err
    code, _, err = cli("optimize", onnx_file, out, "--precision", "fp16")
    assert (code, "precision 'fp16': canonical graphs keep theirs; name a --target" in err) == (
        1,
        True,
    )
    assert not out.exists()


def test_optimize_says_that_float16_stays(cli: Cli, tmp_path: Path) -> None:
    text = "g (float16[n, 4] x) => (float16[n, 4] y) { y = Relu(x) }"
    ir.save(
        ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 23]> {text}'),
        tmp_path / "in.onnx",
    )
    note = "what is float16 in the graph stays so, though ort-cpu was to get fp32"
    for target, said in (("ort-cpu", True), ("ort-cuda", False), ("canonical", False)):
        code, _, err = cli(
            "optimize", tmp_path / "in.onnx", tmp_path / "out.onnx", "--target", target
        )
        assert (code, note in err) == (0, said), err


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x08\x0a\x12\x04torc"])
def test_a_foreign_file_is_one_message(cli: Cli, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    for verb in (("optimize", path, tmp_path / "o.onnx"), ("explain", path), ("inspect", path)):
        code, _, err = cli(*verb)
        assert code == 1
        assert "error:" in err
        assert str(path) in err
    assert not (tmp_path / "o.onnx").exists()


def test_a_truncated_file_is_one_message(cli: Cli, onnx_file: Path, tmp_path: Path) -> None:
    onnx_file.write_bytes(onnx_file.read_bytes()[:-40])
    code, _, err = cli("optimize", onnx_file, tmp_path / "o.onnx")
    assert (code, str(onnx_file) in err) == (1, True)


def test_nan_weights_are_refused(cli: Cli, tmp_path: Path) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 23]>
        g (float[n, 2] x) => (float[n, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }"""
    )
    model.graph.initializers["w"].const_value = ir.tensor(
        np.array([[1, np.nan], [3, 4]], np.float32), name="w"
    )
    ir.save(model, tmp_path / "nan.onnx")
    code, _, err = cli("optimize", tmp_path / "nan.onnx", tmp_path / "o.onnx")
    assert code == 1
    assert "weight 'w' [2, 2] holds 1 NaN or infinite values of 4" in err


def test_an_old_opset_is_explained_and_the_graph_kept(cli: Cli, tmp_path: Path) -> None:
    ir.save(ir.from_onnx_text(graph_text(10)), tmp_path / "old.onnx")
    code, out, _ = cli("explain", tmp_path / "old.onnx")
    assert code == 0
    assert "expected a graph of opset 11" in " ".join(out.split())


def test_unknown_model_names_three_ways_on(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("build", "nobody/has-this-model", "--out", tmp_path / "b")
    assert code == 1
    for way in ("local folder", "minilm", "--weights random"):
        assert way in err
    assert not (tmp_path / "b").exists()


def test_a_missing_folder_is_one_message(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("build", "./no-such-folder", "--out", tmp_path / "b")
    assert (code, "no-such-folder" in err) == (1, True)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--precision", "int4", "precision 'int4': expected one of auto, fp32, fp16, bf16, int8"),
        ("--target", "npu", "target 'npu': expected one of tensorrt, tensorrt-rtx"),
        ("--task", "chat", "chat"),
        ("--weights", "lucky", "expected 'pretrained' or 'random'"),
        ("--text", "missing.txt", "missing.txt"),
    ],
)
def test_bad_options_are_one_message(
    cli: Cli, tmp_path: Path, option: str, value: str, message: str
) -> None:
    arguments = ["build", "minilm", "--out", str(tmp_path / "b"), option, value]
    if option == "--task":
        arguments += ["--target", "ort-cpu"]
    code, _, err = cli(*arguments)
    assert code == 1
    assert message in err
    assert not (tmp_path / "b").exists()


def test_a_missing_bundle_says_how_to_make_one(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("run", tmp_path / "none", "--text", "hello")
    assert code == 1
    assert "make one with: fuselage build MODEL --out DIR" in err


def test_a_missing_package_names_its_extra(tmp_path: Path) -> None:
    out = str(tmp_path / "b")
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from fuselage.compiler.cli import run\n"
        f"sys.exit(run(['build', 'minilm', '--no-cache', '--target', 'ort-cpu', '--out', {out!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "building a bundle needs the package 'torch'" in done.stderr
    assert 'pip install "fuselage[compile]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "b").exists()


def test_wrong_usage_exits_with_2(cli: Cli) -> None:
    code, _, err = cli("build")
    assert code == 2
    assert "MODEL" in err


def test_doctor_lists_every_target(cli: Cli) -> None:
    code, out, _ = cli("doctor", "--json")
    assert code == 0
    facts = json.loads(out.splitlines()[-1])
    assert list(facts["blockers"]) == ["tensorrt", "tensorrt-rtx", "ort-cuda", "ort-cpu"]
    assert facts["blockers"]["ort-cpu"] == {"build": None, "run": None}


def test_help_lists_the_verbs(cli: Cli) -> None:
    code, out, _ = cli("--help")
    assert code == 0
    for verb in ("build", "run", "export", "optimize", "explain", "inspect", "doctor"):
        assert verb in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shapes", "nonsense"), "expected AXIS=MIN:OPT:MAX"),
        (("--text", __file__), "(test_cli.py): precision 'auto' is not calibrated; leave the"),
        (("--compute-capability", "SM89"), "SM89: it is for tensorrt or tensorrt-rtx, this"),
        (("--profiles", "auto"), "--profiles auto: it is for tensorrt or tensorrt-rtx, this"),
        (("--profiles", "few"), "profiles 'few': expected wide, auto, or how many there may be"),
        (("--gpu-memory", "24"), "--gpu-memory 24: it is for tensorrt or tensorrt-rtx, this"),
        (("--gpu-memory", "0"), "--gpu-memory 0: expected the GiB of a GPU, such as 24"),
        (("--gpu-memory", "nan"), "--gpu-memory nan: expected the GiB of a GPU, such as 24"),
    ],
)
def test_options_that_cannot_be_heeded_are_refused_before_the_work(
    cli: Cli, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    code, _, err = cli("build", "minilm", "--out", tmp_path / "b", "--target", "ort-cpu", *options)
    assert (code, message in err) == (1, True)
    assert "export" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_bundle_is_kept(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    code, _, err = cli("build", "minilm", "--out", tmp_path / "b", "--target", "ort-cpu")
    assert (code, "found a file; move it away" in err) == (1, True)
    assert (tmp_path / "b").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "expected .npy (vectors of an embedding bundle), .jsonl or .parquet, got ''"),
        ("vectors.txt", "got '.txt'"),
        ("none/vectors.npy", "but there is no folder"),
        ("folder.npy", "folder.npy is a folder"),
    ],
)
def test_answers_need_a_place_before_they_are_computed(
    cli: Cli, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder.npy").mkdir()
    out = tmp_path / name if name else ""
    code, _, err = cli("run", tmp_path / "no-bundle", "--text", "hello", "--out", out)
    assert (code, message in err) == (1, True)


@pytest.mark.parametrize(
    ("model", "name"),
    [("minilm", "minilm"), ("owner/name", "name"), ("my model/", "my model"), (".", "here")],
)
def test_a_bundle_is_called_like_its_model(
    model: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "my model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert default_out(model) == Path("build") / name


def test_a_folder_above_gives_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_out("..") == Path("build") / tmp_path.parent.name


def test_a_folder_in_place_of_the_graph_leaves_no_weights(
    cli: Cli, onnx_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    before = sorted(tmp_path.iterdir())
    code, _, err = cli("optimize", onnx_file, tmp_path / "folder.onnx")
    assert (code, "folder.onnx: expected the name of a file, but it is a folder" in err) == (
        1,
        True,
    )
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("passed", "lost", "said", "unsaid"),
    [
        (False, [], "does not answer like the model: t: far off", "kernels"),
        (
            True,
            ["1 of 2 is float"],
            "kernels are not those its graph asks for: t: 1 of 2",
            "answer",
        ),
    ],
)
def test_a_failed_verdict_says_which_half_failed(
    passed: bool, lost: list[str], said: str, unsaid: str
) -> None:
    verdict = {"target": "t", "passed": passed, "reason": None if passed else "far off"}
    text = _verdict_text(
        Path("b"), {"verification": {"targets": [verdict]}, "targets": {"t": {"lost": lost}}}
    )
    assert said in text
    assert unsaid not in text


@pytest.mark.parametrize("verb", ["explain", "inspect"])
def test_a_subject_that_is_not_there(cli: Cli, verb: str) -> None:
    code, _, err = cli(verb, "minilm-that-was-not-built")
    assert code == 1
    assert "expected the folder of a bundle or an .onnx file, found nothing" in err


def test_version(cli: Cli) -> None:
    from importlib import metadata

    code, out, _ = cli("--version")
    assert (code, out.strip()) == (0, f"fuselage {metadata.version('fuselage')}")


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fuselage", "build", "minilm", "--target", "ort-cpu"]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "b")],
        stderr=subprocess.PIPE,
        text=True,
        # A background shell lets its children ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if "done export" in line:
                break
        running.send_signal(signal.SIGINT)
        rest = running.stderr.read()
    assert running.returncode == 130
    assert rest.splitlines()[-1] == "error: interrupted; nothing half-written was left"
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
