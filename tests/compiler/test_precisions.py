"""Candidates of a comparison, the cost model on hand-made kernels, and which engine is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import pytest

import fuselage
from fuselage.compiler import pipeline
from fuselage.compiler.precisions import compare as precisions
from fuselage.compiler.precisions.candidates import Candidate, candidates_for
from fuselage.compiler.precisions.compare import Result, compare_precisions
from fuselage.compiler.precisions.cost import RATES, GpuRates, Workload, modelled_ms
from fuselage.compiler.recipe import Request
from fuselage.errors import BuildError, BundleError, CalibrationError, VerificationError
from fuselage.graph.model import Graph

GPU = GpuRates(name="G", half=1e9, int8=2e9, fp8=2e9, single=5e8, bandwidth=1e9)
LAUNCH_MS = 2.5e-3


def request(**options: Any) -> Request:
    return Request(model="m", out=Path("never"), **options)


@pytest.mark.parametrize(
    ("target", "gpus", "names"),
    [
        ("tensorrt-rtx", (), ["fp16", "int8 ffn", "int8"]),
        ("tensorrt-rtx", ("SM89", "SM120"), ["fp16", "int8 ffn", "int8", "fp8"]),
        ("tensorrt-rtx", ("SM80", "SM89"), ["fp16", "int8 ffn", "int8"]),
        ("ort-cpu", (), ["fp32", "int8 ffn", "int8"]),
    ],
)
def test_candidates_are_what_the_target_and_all_its_gpus_do_fast(
    target: str, gpus: tuple[str, ...], names: list[str]
) -> None:
    found = candidates_for(request(compute_capabilities=gpus), target)
    assert [candidate.name for candidate in found] == names


def test_a_comparison_that_leaves_nothing_to_compare_is_refused() -> None:
    with pytest.raises(BuildError, match="ort-cuda has one fast precision, fp16"):
        candidates_for(request(), "ort-cuda")
    with pytest.raises(BuildError, match="tries several; leave --precision int8"):
        candidates_for(request(precision="int8"), "ort-cpu")
    with pytest.raises(BuildError, match="one target, got ort-cpu, tensorrt-rtx"):
        compare_precisions(request(targets=("ort-cpu", "tensorrt-rtx")))


def test_a_float_candidate_leaves_out_what_only_int8_heeds() -> None:
    texts: Any = object()
    asked = request(texts=texts, min_sqnr=20.0, min_cosine=0.9, max_drop={"f1": 1.0})
    plain = Candidate(name="fp16", precision="fp16").request(asked)
    assert (plain.texts, plain.min_sqnr, plain.min_cosine, plain.max_drop) == (None, None, None, {})
    ffn = Candidate(name="int8 ffn", precision="int8", float_attention=True).request(asked)
    assert (ffn.texts, ffn.min_sqnr, ffn.float_attention) == (texts, 20.0, True)
    fitted = request(texts=texts, profiles="auto")
    assert Candidate(name="fp16", precision="fp16").request(fitted).texts is texts


@pytest.fixture
def work() -> Workload:
    tensors = [
        ir.tensor(np.zeros(shape, np.float32), name=name)
        for name, shape in {"w1": (32, 64), "w2": (64, 32)}.items()
    ]
    text = """<ir_version: 11, opset_import: ["" : 23]>
    net (float[b, s, 32] x) => (float[b, s, 32] y)
    { [up] h = MatMul(x, w1) [down] y = MatMul(h, w2) }"""
    return Workload.of((Graph(ir.from_onnx_text(text, tensors)),))


def kernel(kind: str, dtypes: str, *nodes: str, name: str = "k") -> dict[str, Any]:
    return {"kind": kind, "dtypes": dtypes, "nodes": list(nodes), "name": name}


@pytest.mark.parametrize(
    ("found", "tokens", "milliseconds"),
    [
        # 2 x 1000 x 32 x 64 operations take longer than the traffic of their operands.
        (kernel("gemm", "Half|Half->Half", "up"), 1000, 4.096),
        (kernel("gemm", "Int8|Int8->Half", "up"), 1000, 2.048),
        (kernel("gemm", "FP8|FP8->Half", "up"), 1000, 2.048),
        (kernel("gemm", "Float|Float->Float", "up"), 1000, 8.192),
        # One token is traffic: 32 in, 64 out and 32 x 64 weights, of 2 bytes and of 1.
        (kernel("gemm", "Half|Half->Half", "up"), 1, (64 + 128 + 4096) / 1e6),
        (kernel("gemm", "Int8|Int8->Half", "up"), 1, (32 + 128 + 2048) / 1e6),
        (kernel("runtime_fusion", "Half|Half,Half->Int8", "up"), 1, (64 + 64 + 4096) / 1e6),
        # Two products in one kernel.
        (kernel("gemm", "Half|Half->Half", "up", "up"), 1000, 8.192),
        # Anything else moves a token's 32 channels.
        (kernel("kgen", "Half,Half|Half->Half", "up"), 1000, 1000 * 32 * 6 / 1e6),
        (kernel("kgen", "Half->Int8"), 1000, 1000 * 32 * 3 / 1e6),
    ],
)
def test_a_kernel_takes_the_longer_of_arithmetic_and_traffic(
    work: Workload, found: dict[str, Any], tokens: int, milliseconds: float
) -> None:
    assert modelled_ms([found], work, GPU, 1, tokens) == pytest.approx(milliseconds + LAUNCH_MS)


def test_attention_grows_with_the_square_of_the_sequence_and_not_of_the_batch(
    work: Workload,
) -> None:
    fused = kernel("kgen", "Half,Half,Half->Half", name="_gemm_mha_v2_myl0_7")
    one = modelled_ms([fused], work, GPU, 1, 100) - LAUNCH_MS
    assert one == pytest.approx(4 * 100 * 100 * 32 / 1e6)
    assert modelled_ms([fused], work, GPU, 2, 100) - LAUNCH_MS == pytest.approx(2 * one)
    assert modelled_ms([fused], work, GPU, 1, 200) - LAUNCH_MS == pytest.approx(4 * one)


def test_every_rate_table_ranks_int8_above_half_and_half_above_single() -> None:
    for rates in RATES.values():
        assert rates.int8 >= 2 * rates.half > rates.single
        assert rates.of("FP8E4M3FN") == rates.fp8 >= rates.half
        assert rates.of("BFloat16") == rates.half


def result(name: str, score: float, *, passed: bool = True) -> Result:
    reason = None if passed else "it differs"
    candidate = Candidate(name=name, precision=name)
    return Result(candidate=candidate, passed=passed, reason=reason, score=score, facts={})


def test_the_fastest_that_answers_like_the_model_is_kept() -> None:
    found = [result("fp16", 3.0), result("int8", 1.0, passed=False), result("fp8", 2.0)]
    assert precisions._best(found).name == "fp8"
    assert precisions._best([result("fp16", 2.0), result("int8", 2.0)]).name == "fp16"
    with pytest.raises(VerificationError, match="no precision answers like the model: int8: it di"):
        precisions._best(found[1:2])


def test_a_candidate_that_cannot_be_built_is_in_the_report_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Request] = []
    scratch: list[list[Path]] = []

    def build(found: Request, *_: Any, **__: Any) -> Any:
        asked.append(found)
        scratch.append(list(tmp_path.iterdir()))
        if found.precision == "int8" and not found.float_attention:
            raise CalibrationError("no range fits")
        return SimpleNamespace()

    latency = {"fp32": 2.0, "int8": 1.0}
    monkeypatch.setattr(precisions, "run_build", build)
    monkeypatch.setattr(precisions.Bundle, "open", lambda _: SimpleNamespace())
    monkeypatch.setattr(
        precisions,
        "read_report",
        lambda _: {
            "latency": {"ort-cpu": [{"median_ms": latency[asked[-1].precision]}]},
            "verification": {"targets": [{"cosine_mean": 1.0, "cosine_min": 0.9}]},
            "quantization": None,
            "targets": {"ort-cpu": {"bytes": 7}},
        },
    )
    compare_precisions(replace(request(targets=("ort-cpu",)), out=tmp_path / "b"))
    *tried, final = asked
    assert (final.out, final.precision, final.float_attention) == (tmp_path / "b", "int8", True)
    (beside,) = scratch[0]
    assert [found.out.parent for found in tried] == [beside] * 3
    assert [len(there) for there in scratch] == [1, 1, 1, 0]  # cleared before the last build
    rows = [(row["name"], row["chosen"], row["milliseconds"]) for row in final.comparison]
    assert rows == [("fp32", False, 2.0), ("int8 ffn", True, 1.0), ("int8", False, None)]
    assert final.comparison[2]["reason"] == "no range fits"
    assert {row["how"] for row in final.comparison} == {"measured", ""}


def test_a_destination_that_is_no_bundle_is_refused_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").touch()
    monkeypatch.setattr(precisions, "run_build", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(BundleError, match="holds files but is not a bundle"):
        compare_precisions(replace(request(targets=("ort-cpu",)), out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("compare", [True, False])
def test_python_compares_as_the_command_does(
    compare: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def kept(name: str) -> Any:
        def run(found: Request, **options: Any) -> Any:
            asked[name] = (found.out, found.precision, options)
            return SimpleNamespace(bundle=name)

        return run

    monkeypatch.setattr(precisions, "compare_precisions", kept("compared"))
    monkeypatch.setattr(pipeline, "run_build", kept("built"))
    found: Any = fuselage.build("m", out=tmp_path, compare_precisions=compare, force=True)
    assert found == ("compared" if compare else "built")
    assert asked == {found: (tmp_path, "auto", {"force": True, "use_cache": True})}


def test_force_builds_and_times_every_candidate_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forced: list[bool] = []

    def build(_: Request, *, force: bool, **__: Any) -> Any:
        forced.append(force)
        raise VerificationError("it differs")

    monkeypatch.setattr(precisions, "run_build", build)
    asked = replace(request(targets=("ort-cpu",)), out=tmp_path / "b")
    with pytest.raises(VerificationError, match="no precision answers like the model"):
        compare_precisions(asked, force=True)
    assert forced == [True] * 3


def test_a_percent_at_a_small_batch_weighs_as_much_as_one_at_a_large_batch() -> None:
    rows = [{"median_ms": 1.0}, {"median_ms": 100.0}]
    found = precisions._timed({"latency": {"t": rows}}, cast("Any", None), "t")
    assert found == (pytest.approx(10.0), "measured")
