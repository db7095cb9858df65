"""Candidates of a comparison, the cost model on hand-made kernels, and which engine is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.precisions import compare as precisions
from fuselage.compiler.precisions.candidates import Candidate, candidates_for
from fuselage.compiler.precisions.compare import Result, compare_precisions
from fuselage.compiler.precisions.cost import RATES, GpuRates, Workload, modelled_ms
from fuselage.compiler.recipe import Request
from fuselage.errors import BuildError, CalibrationError, VerificationError
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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Request] = []

    def build(found: Request, *_: Any, **__: Any) -> Any:
        asked.append(found)
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
    compare_precisions(request(targets=("ort-cpu",)))
    final = asked[-1]
    assert (final.out, final.precision, final.float_attention) == (Path("never"), "int8", True)
    rows = [(row["name"], row["chosen"], row["milliseconds"]) for row in final.comparison]
    assert rows == [("fp32", False, 2.0), ("int8 ffn", True, 1.0), ("int8", False, None)]
    assert final.comparison[2]["reason"] == "no range fits"
    assert {row["how"] for row in final.comparison} == {"measured", ""}
