"""Whole benchmarks of a tiny bundle: what is asked, refused and written; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import fuselage
from fuselage.compiler.cli import run
from fuselage.engines.base import Engine
from fuselage.errors import DeviceError, ExportError, FeedError, SourceError
from fuselage.graph.model import Graph
from fuselage.graph.tensors import TensorSpec
from fuselage.proof.subjects.base import Subject
from fuselage.proof.timing import baselines, bench
from fuselage.proof.timing.agreement import relative_difference
from fuselage.proof.timing.bench import run_bench
from fuselage.proof.timing.business import Business
from fuselage.proof.timing.candidates import Candidate
from fuselage.proof.timing.entries import Entry, make_entries
from fuselage.proof.timing.race import Rules
from fuselage.proof.timing.request import Request
from fuselage.proof.timing.trtexec import times_files
from fuselage.proof.timing.wording import verdict_rows
from fuselage.proof.timing.work import Shape, drawn_work

SHORT = Rules(warm_up=0.001, seconds=0.005, iterations=3, turn=0.0001)
pytestmark = pytest.mark.usefixtures("quiet")


def short(*subjects: str | Path, **options: Any) -> Request:
    given = {"rules": SHORT, "memory": False, "threads": 1} | options
    return Request(subjects=tuple(map(str, subjects)), **given)


def busy(reason: str = "others used 50%") -> Business:
    return Business(
        seconds=1, processors=2, others=0.5, stolen=0, waiting=0.5, preempted=9, reason=reason
    )


def test_two_candidates_on_the_sizes_of_the_profile(bundle: Path, onnx_file: Path) -> None:
    found = run_bench(short(bundle, onnx_file))
    document = found.document()
    assert json.loads(json.dumps(document, allow_nan=False))
    assert (document["schema"], document["kind"]) == (1, "benchmark")
    assert [work["name"] for work in document["works"]] == ["1x8", "2x8"]
    assert document["reference"] == "tiny"
    assert document["candidates"] == {
        "tiny": {"subject": f"bundle:{bundle}", "precision": "fp32"},
        "tiny.onnx": {"subject": f"ort:{onnx_file}", "precision": None},
    }
    first, second = document["works"]
    assert list(first["candidates"]) == ["tiny", "tiny.onnx"]
    assert (second["sequences"], second["tokens"], second["fill"]) == (2, 16, 1.0)
    figures = second["candidates"]["tiny"]
    assert figures["calls"] >= 12
    assert len(figures["cdf_ms"]) <= 200
    assert len(figures["rounds_ms"]) >= 12
    assert figures["tokens_per_second"] == pytest.approx(8 * figures["sequences_per_second"])
    (verdict,) = first["verdicts"].values()
    assert verdict["outcome"] in ("faster", "slower", "no difference")
    assert verdict["low"] <= verdict["ratio"] <= verdict["high"]
    assert document["environment"]["business"]["others"] == 0.01
    assert document["environment"]["threads"] == 1
    assert document["concluded"] is True


def test_the_same_subject_twice_has_two_names(bundle: Path) -> None:
    found = run_bench(short(bundle, bundle, shapes=("1x4",)))
    assert list(found.results[0].figures) == ["tiny", "tiny (2)"]
    assert list(found.results[0].verdicts) == ["tiny (2)"]


def test_texts_have_their_own_lengths(bundle: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a\na b c d e f g h\n")
    found = run_bench(short(bundle, shapes=("2",), texts=(texts,)))
    work = found.results[0].work
    (feeds,) = work.inputs
    lengths = sorted(feeds["attention_mask"].sum(1).tolist())
    assert work.name == "2 texts"
    assert work.tokens == (sum(lengths),)
    assert work.fill == sum(lengths) / feeds["input_ids"].size < 1
    assert found.texts == "texts.txt"


def test_a_shape_with_a_sequence_is_full_and_of_the_tokenizers_ids(bundle: Path) -> None:
    (work,) = (r.work for r in run_bench(short(bundle, shapes=("3x16",))).results)
    assert work.inputs[0]["attention_mask"].all()
    assert work.inputs[0]["input_ids"].shape == (3, 16)
    assert 1 < len(np.unique(work.inputs[0]["input_ids"])) < 100


def test_a_candidate_that_computes_something_else_is_noted(
    bundle: Path, onnx_file: Path, tmp_path: Path
) -> None:
    graph = Graph.load(onnx_file)
    blind = graph.clone()
    (product,) = [node for node in blind.model.graph if node.op_type == "MatMul"]
    weight = product.inputs[1]
    weight.const_value = ir.tensor(-weight.const_value.numpy(), name=weight.name)
    blind.save(tmp_path / "blind.onnx")
    found = run_bench(short(bundle, onnx_file, tmp_path / "blind.onnx", shapes=("2x4",)))
    (note,) = found.notes
    assert note.startswith("blind.onnx answers otherwise than tiny (relative difference 2):")


@pytest.mark.parametrize(
    ("got", "wanted", "difference"),
    [
        ({"y": [3.0, 4.0]}, {"y": [3.0, 4.0]}, 0.0),
        ({"y": [3.0, 4.0], "z": [9.0]}, {"y": [0.0, 5.0]}, 10**0.5 / 5),
        ({"y": [3.0]}, {"y": [3.0, 4.0]}, np.inf),
        ({"y": [np.nan]}, {"y": [1.0]}, np.inf),
        ({"z": [1.0]}, {"y": [1.0]}, None),
    ],
)
def test_answers_differ_by(got: Any, wanted: Any, difference: float | None) -> None:
    arrays = [{name: np.array(row) for name, row in side.items()} for side in (got, wanted)]
    assert relative_difference(*arrays) == (
        None if difference is None else pytest.approx(difference)
    )


@pytest.mark.parametrize("mode", ["engine", "e2e", "pipeline"])
def test_every_mode_runs(bundle: Path, onnx_file: Path, mode: Any) -> None:
    """In pipeline mode the ONNX file borrows the bundle's tokenizer."""
    found = run_bench(short(bundle, f"ort:{onnx_file}", mode=mode, shapes=("2",)))
    assert found.results[0].work.sequences == 2
    assert (found.results[0].work.fill is None) is (mode == "pipeline")
    assert len(found.results[0].figures) == 2
    cut = [note for note in found.notes if "longer than 16 tokens" in note]
    assert len(cut) == 1


def test_clients_and_open_load(bundle: Path) -> None:
    rules = replace(SHORT, seconds=0.01, rounds=8)
    closed = run_bench(short(bundle, shapes=("1x4",), clients=3, rules=rules))
    assert closed.document()["load"] == {"kind": "closed", "clients": 3}
    opened = run_bench(short(bundle, shapes=("1x4",), rate=40.0, clients=2, rules=rules))
    assert opened.document()["load"] == {"kind": "open", "rate": 40.0, "clients": 2}
    assert opened.results[0].figures["tiny"].occupancy < 0.9


def test_an_engine_of_tensorrt_is_timed_by_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/engines/tensorrt/test_timed_calls.py has the calls themselves."""
    closed: list[bool] = []

    class Calls:
        def __init__(self, engine: Engine, feeds: list[Any]) -> None:
            self.engine, self.feeds = engine, feeds

        def run(self, number: int) -> float:
            return 2.5 + number

        def close(self) -> None:
            closed.append(True)

    class Plan(Engine):
        target = "tensorrt"
        inputs = (TensorSpec("ids", "int64", ("batch", "sequence")),)
        outputs = ()

        def run(self, feeds: Any) -> dict[str, Any]:  # noqa: ARG002
            return {}

        def close(self) -> None:
            pass

    class OfBundle(Subject):
        name, inputs, outputs = "plan", Plan.inputs, ()
        engine = Plan()

        def run(self, feeds: Any) -> dict[str, Any]:  # noqa: ARG002
            raise AssertionError("not through the subject")

    monkeypatch.setattr("fuselage.engines.tensorrt.timed_calls.TimedCalls", Calls)
    work = drawn_work(Shape(2, 3), Plan.inputs)
    candidate = Candidate("plan", OfBundle())
    assert candidate.call(work, "engine")(4) == 6.5e6  # nanoseconds of its own clock
    assert candidate.call(work, "e2e")(4) is None
    assert candidate.call(work, "engine", is_alone=False)(4) is None
    candidate.close()
    assert closed == [True]


# --- the busy machine


def test_a_busy_machine_gives_neither_verdict_nor_figures(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "business", lambda *_: busy())
    with pytest.raises(DeviceError, match=r"too busy to conclude.*: others used 50%.*--anyway"):
        run_bench(short(bundle))


def test_a_machine_that_becomes_busy_meanwhile_is_refused_too(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([busy(""), busy()])
    monkeypatch.setattr(bench, "business", lambda *_: next(found))
    with pytest.raises(DeviceError, match="too busy"):
        run_bench(short(bundle, shapes=("1x4",)))


def test_anyway_gives_figures_without_a_verdict(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "business", lambda *_: busy())
    found = run_bench(short(bundle, bundle, shapes=("1x4",), anyway=True))
    document = found.document()
    assert document["concluded"] is False
    assert document["works"][0]["verdicts"] == {}
    assert len(document["works"][0]["candidates"]) == 2
    assert verdict_rows(found) == [("all", "none: others used 50%")]


# --- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"shapes": ("1x17",)},
            r"shape 1x17: tiny: axis 'sequence' has size 17.*built for 1 to 16",
        ),
        ({"shapes": ("9x4",)}, r"shape 9x4: tiny: axis 'batch' has size 9.*built for 1 to 8"),
        ({"shapes": ("9",)}, r"shape 9: tiny: axis 'batch' has size 9"),
        ({"shapes": ("8by4",)}, r"shape '8by4': expected BATCHxSEQUENCE such as 8x128"),
        ({"shapes": ("1x4,0x4",)}, r"shape '0x4': expected BATCHxSEQUENCE"),
        ({"shapes": ("",)}, r"shape '': expected"),
        ({"mode": "pipeline", "shapes": ("2x8",)}, "shape 2x8: a pipeline takes texts"),
    ],
)
def test_shapes_that_cannot_be_are_refused_by_name(
    bundle: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(FeedError, match=message):
        run_bench(short(bundle, **options))


def test_texts_need_a_tokenizer(onnx_file: Path) -> None:
    with pytest.raises(FeedError, match=r"shape 4: texts need a tokenizer, which no candidate has"):
        run_bench(short(onnx_file, shapes=("4",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "serve"}, "mode: expected one of engine, e2e, pipeline, got 'serve'"),
        ({"clients": 0}, "at least 1 client and a rate above 0, got 0 and None"),
        ({"rate": float("inf")}, "at least 1 client and a rate above 0, got 1 and inf"),
        ({"rate": 0.0}, "at least 1 client and a rate above 0, got 1 and 0.0"),
        ({"floor": 1.5}, "floor: expected a share from 0 to below 1, got 1.5"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FeedError, match=message):
        short("anything", **options)


def test_kept_results_cannot_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = SimpleNamespace(name="results:old.npz", kept={"a": {}}, close=lambda: None)
    monkeypatch.setattr("fuselage.proof.timing.entries.open_subject", lambda *_: kept)
    with pytest.raises(SourceError, match=r"results:old\.npz: expected a bundle:, ort: or torch:"):
        run_bench(short("results:old.npz"))


def test_unknown_baselines_and_no_subject_are_refused(bundle: Path) -> None:
    with pytest.raises(SourceError, match="baseline 'onnx': expected one of torch-eager, torch"):
        run_bench(short(bundle, baselines=("onnx",)))
    with pytest.raises(SourceError, match="at least one subject"):
        run_bench(short())
    with pytest.raises(SourceError, match="baselines need a model; name it with --model"):
        make_entries(["ort:x.onnx"], ["all"], Entry(name="", form=""))


def test_a_baseline_that_does_not_run_is_left_out_and_says_why(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ExportError("torch.compile needs a C++ compiler")

    monkeypatch.setattr("fuselage.proof.timing.entries.open_baseline", refuse)
    found = run_bench(short(bundle, shapes=("1x4",), baselines=("torch-compile",), model="minilm"))
    assert dict(found.skipped) == {"torch-compile": "torch.compile needs a C++ compiler"}
    assert list(found.results[0].figures) == ["tiny"]
    assert found.document()["skipped"] == dict(found.skipped)


def test_a_baseline_that_fails_on_its_first_call_is_left_out_too(
    bundle: Path, onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(baselines.OnnxSubject):
        def run(self, feeds: Any) -> Any:
            del feeds
            raise ExportError("no kernel")

    monkeypatch.setattr(
        "fuselage.proof.timing.entries.open_baseline",
        lambda kind, *_: Broken.open(kind, onnx_file),
    )
    found = run_bench(short(bundle, shapes=("1x4",), baselines=("ort",), model="minilm"))
    assert dict(found.skipped) == {"ort": "no kernel"}


def test_the_model_of_a_bundle_must_be_the_one_it_was_built_from() -> None:
    name = baselines.ModelName(name="minilm", weights="random", digest="d" * 64)
    with pytest.raises(SourceError, match=r"another model of this name \(digest d{12}, found"):
        name.resolve()


# --- memory, times, the command line


def test_memory_is_that_of_a_process_of_its_own(bundle: Path) -> None:
    found = run_bench(short(bundle, shapes=("8x16",), memory=True)).document()["memory"]["tiny"]
    assert 10 << 20 < found["start"] < found["opened"] <= found["peak"]
    assert found["growth"] == found["peak"] - found["start"]


def test_why_memory_was_not_measured(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise DeviceError("tiny: killed")

    monkeypatch.setattr(bench, "peak_memory", refuse)
    found = run_bench(short(bundle, shapes=("1x4",), memory=True))
    assert found.document()["memory"] == {"tiny": {"blocker": "tiny: killed"}}


def test_times_are_those_of_trtexec(bundle: Path, tmp_path: Path) -> None:
    found = run_bench(short(bundle, shapes=("1x4",)))
    (path, entries), *others = times_files(found, tmp_path / "times.json").items()
    assert (path, others) == (tmp_path / "times.json", [])
    assert len(entries) == found.results[0].figures["tiny"].calls
    assert entries[0]["startEnqMs"] == 0
    for entry in entries:
        assert set(entry) == {
            *(
                f"{end}{part}Ms"
                for end in ("start", "end")
                for part in ("Enq", "H2d", "Compute", "D2h")
            ),
            *("h2dMs", "computeMs", "d2hMs", "latencyMs"),
        }
        assert entry["endComputeMs"] - entry["startComputeMs"] == pytest.approx(
            entry["latencyMs"], abs=2e-6
        )


def test_the_command_writes_its_documents(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, times = tmp_path / "bench.json", tmp_path / "times.json"
    command = ["bench", str(bundle), str(bundle), "--shapes", "1x4", "--seconds", "0.01"]
    command += ["--no-memory", "--threads", "1", "--out", str(out), "--trtexec-json", str(times)]
    assert run([*command, "--json"]) == 0
    printed = capfd.readouterr().out
    document = json.loads(out.read_text())
    assert json.loads(printed.splitlines()[-1]) == document
    assert printed.lstrip().startswith("verdict")
    assert {path.name for path in tmp_path.iterdir()} == {
        "bench.json",
        "times.tiny.1x4.json",
        "times.tiny-2.1x4.json",
    }
    assert isinstance(json.loads((tmp_path / "times.tiny.1x4.json").read_text())[0], dict)


def test_the_command_refuses_on_a_busy_machine(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bench, "business", lambda *_: busy())
    out = tmp_path / "bench.json"
    command = ["bench", str(bundle), "--shapes", "1x4", "--seconds", "0.01", "--no-memory"]
    assert run([*command, "--out", str(out)]) == 2
    assert "error: this machine is too busy" in capfd.readouterr().err
    assert not out.exists()
    assert run([*command, "--out", str(out), "--anyway"]) == 0
    assert json.loads(out.read_text())["concluded"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shapes", "axb"], "shape 'axb': expected"),
        (["--baseline", "x"], "baseline 'x': expected"),
    ],
)
def test_what_is_misspelled_is_told_on_a_busy_machine_too(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(bench, "business", lambda *_: busy())
    assert run(["bench", str(bundle), *options]) == 2
    assert message in capfd.readouterr().err


def test_a_file_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "nothing", "--out", str(tmp_path / "no" / "x.json")]) == 2
    assert "there is no folder" in capfd.readouterr().err


def test_from_python(bundle: Path) -> None:
    found = fuselage.bench(bundle, shapes="1x4", seconds=0.01, memory=False, threads=1)
    assert found.reference == "tiny"


def test_a_bundle_is_timed_without_the_compilers_packages(bundle: Path) -> None:
    code = (
        "import sys\n"
        "from fuselage.proof.timing.bench import run_bench\n"
        "from fuselage.proof.timing.race import Rules\n"
        "from fuselage.proof.timing.request import Request\n"
        "rules = Rules(warm_up=0.001, seconds=0.005, turn=0.0001)\n"
        "run_bench(Request(subjects=(sys.argv[1],), rules=rules, memory=False, threads=1,"
        " anyway=True))\n"
        "print(*{'torch', 'transformers', 'onnx', 'onnx_ir', 'tensorrt'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", code, str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_benchmark_of_the_benchmark_prints_both_figures(bundle: Path, tmp_path: Path) -> None:
    """Of real processes, on a machine as it is: whether the figures are good is not asked."""
    script = Path(__file__).parents[3] / "benchmarks" / "bench_repeatability.py"
    command = [sys.executable, str(script), "--pair", str(bundle), str(bundle), "--shape", "1x4"]
    command += ["--seconds", "0.01", "--runs", "1", "1", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["spread"] == 0
    assert found["no_difference"] == (found["equals"][0]["outcome"] == "no difference")
    assert (
        f"equals called no difference: {found['no_difference']:d} of 1 (at least 95%)"
        in done.stdout
    )
