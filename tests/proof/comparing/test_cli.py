"""``fuselage compare``: exit codes, what is printed, what is written."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import fuselage
from fuselage.compiler.cli import run
from fuselage.engines.bundle import Bundle


def test_a_good_bundle_passes(
    model_folder: Path, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "comparison.json"
    code = run(["compare", _torch(model_folder), f"bundle:{bundle.root}", "--out", str(out)])
    printed = capsys.readouterr().out
    assert code == 0
    assert printed.startswith(f"PASS bundle:{bundle.root}#ort-cpu (fp32) answers like torch:")
    document = json.loads(out.read_text())
    assert document["passed"] is True
    output = document["candidates"][0]["outputs"][0]
    assert output["metrics"]["relative"] < 2e-6
    assert output["metrics"]["top_1"] == 1.0
    assert output["bounds"]["relative"] == 2e-5  # a precise reference lowers it for nobody
    assert 0 < document["noise_floor"]["logits"]["relative"] < 2e-6
    assert document["candidates"][0]["invariance"]["padded"]["logits"]["relative"] < 1e-5


def test_a_damaged_graph_fails_and_the_case_is_named(
    model_folder: Path, damaged_graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["compare", _torch(model_folder), f"ort:{damaged_graph}", "--json", "--quiet"])
    printed, told = capsys.readouterr()
    assert code == 1, told
    assert printed.startswith(f"FAIL ort:{damaged_graph}: logits: relative")
    document = json.loads(printed.splitlines()[-1])
    failure = document["candidates"][0]["failures"][0]
    assert failure["case"] in [case["name"] for case in document["cases"]]
    assert "attention.self.key" in document["candidates"][0]["divergence"]


def test_kept_answers_stand_for_the_model(
    model_folder: Path,
    bundle: Bundle,
    damaged_graph: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = tmp_path / "answers.npz"
    arguments = ["compare", _torch(model_folder), f"bundle:{bundle.root}"]
    assert run([*arguments, "--save-reference", str(kept)]) == 0
    assert run(["compare", f"results:{kept}", f"bundle:{bundle.root}#ort-cpu"]) == 0
    assert run(["compare", f"results:{kept}", f"ort:{damaged_graph}"]) == 1
    assert "was not looked for: kept answers hold no values" in capsys.readouterr().err


def test_a_host_without_pytorch_compares_with_kept_answers(
    model_folder: Path, bundle: Bundle, tmp_path: Path
) -> None:
    kept = tmp_path / "answers.npz"
    arguments = ["compare", _torch(model_folder), f"bundle:{bundle.root}"]
    assert run([*arguments, "--save-reference", str(kept)]) == 0
    script = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'onnx_ir', 'onnxscript'):\n"
        "    sys.modules[name] = None\n"
        "from fuselage.compiler.cli import run\n"
        f"sys.exit(run(['compare', 'results:{kept}', 'bundle:{bundle.root}']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PASS")


def test_make_compare_passes_its_variables_on() -> None:
    variables = ("MODEL=models/my", "TEXT=a.txt", "WEIGHTS=random", "GATE=g.toml", "TASK=embedding")
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "compare", *variables],
        cwd=Path(fuselage.__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    words = shlex.split(done.stdout.replace("\\\n", " ").splitlines()[-1])
    assert words[1:] == [
        "compare", "torch:random:models/my", "bundle:build/my", "--task", "embedding",
        "--text", "a.txt", "--gate", "g.toml",
    ]  # fmt: skip


def test_texts_of_the_user_are_asked(
    model_folder: Path, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("here we go\nand there\n")
    arguments = ["compare", _torch(model_folder), f"bundle:{bundle.root}", "--text", str(text)]
    assert run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sorted(document["cases"][0]["texts"]) == ["and there", "here we go"]


def test_files_of_onnx_alone_are_fed_by_what_their_inputs_are_for(
    bundle: Bundle, damaged_graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = f"ort:{bundle.root / 'graph/model.onnx'}"
    assert run(["compare", graph, graph, "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["cases"][0]["name"] == "batch 3, length 7, padding right"
    assert "no subject has a tokenizer" in document["notes"][0]
    assert run(["compare", graph, f"ort:{damaged_graph}", "--no-locate"]) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["minilm", "torch:minilm"], "'minilm': expected one of torch:MODEL"),
        (["ort:none.onnx", "ort:none.onnx"], "expected an ONNX file at none.onnx, found nothing"),
        (["results:none.npz", "ort:x.onnx"], "expected kept answers at none.npz, found no such"),
        (["torch:./none", "ort:x.onnx"], "'./none': expected an alias"),
        (["ort:a.onnx", "bundle:none"], "none: expected the folder of a bundle"),
        (["ort:a.onnx", "ort:b.onnx", "--gate", "none.toml"], "none.toml: the gate file cannot be"),
        (["ort:a.onnx", "ort:b.onnx", "--tolerance", "x"], "--tolerance x: expected OUTPUT"),
        (["ort:a.onnx", "ort:b.onnx", "--out", "none/c.json"], "none/c.json: expected a file to"),
        (
            ["ort:a.onnx", "ort:b.onnx", "--out", "c.txt"],
            "c.txt: expected a name that ends in .json",
        ),
        (["ort:a.onnx", "ort:b.onnx", "--save-reference", "a.txt"], "expected a name that ends in"),
        (["ort:a.onnx", "ort:b.onnx", "--text", "none.txt"], "none.txt: no such file"),
    ],
)
def test_when_nothing_can_be_compared_the_code_is_2_with_one_message(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", *arguments]) == 2
    told = capsys.readouterr().err.strip()
    assert told.splitlines()[-1].startswith("error:")
    assert reason in told


def test_empty_text_is_told(
    model_folder: Path, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "empty.txt"
    text.write_text("\n \n")
    arguments = ["compare", _torch(model_folder), f"bundle:{bundle.root}", "--text", str(text)]
    assert run(arguments) == 2
    assert "at least one text that is not blank" in capsys.readouterr().err


def test_bounds_that_nobody_can_hold(model_folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    gate = tmp_path / "gate.toml"
    gate.write_text("[output.logits]\nrelative = 1e-12\n")
    arguments = ["compare", _torch(model_folder), f"bundle:{bundle.root}", "--no-locate"]
    assert run([*arguments, "--gate", str(gate)]) == 1
    assert run([*arguments, "--gate", str(gate), "--tolerance", "logits:relative=1e-4"]) == 0


def test_the_python_api_does_the_same(model_folder: Path, bundle: Bundle) -> None:
    reference, candidate = _torch(model_folder), f"bundle:{bundle.root}#ort-cpu"
    found = fuselage.compare(reference, candidate, texts=["one text", "and another"])
    assert found.passed
    assert sorted(found.cases[0].texts) == ["and another", "one text"]
    strict = fuselage.compare(
        reference, [candidate], texts=["one text"], tolerances=["max_abs=0"], locate=False
    )
    assert not strict.passed
    assert "max_abs" in str(strict.candidates[0].failures[0])


def _torch(folder: Path) -> str:
    return f"torch:random:{folder}"
