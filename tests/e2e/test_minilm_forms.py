"""MiniLM with int8 weights alone, INT8 embeddings and in FP8: sizes, kernels, answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fuselage
from fuselage.compiler.report import read_report

pytestmark = pytest.mark.slow


def report_of(out: Path, *targets: str, **options: Any) -> dict[str, Any]:
    """Of a build that succeeded: every target answers within its gate and lost no kernel."""
    report = read_report(fuselage.build("minilm", out=out, targets=targets, **options))
    assert report["verification"]["passed"] is True
    assert all(entry["lost"] == [] for entry in report["targets"].values())
    return report


def test_int8_weights_and_embeddings(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    targets = ("ort-cpu", "tensorrt-rtx")
    report = report_of(tmp_path / "b", *targets, precision="int8-weight-only", int8_embeddings=True)
    quantization, (cpu, rtx) = report["quantization"], (report["targets"][t] for t in targets)
    assert (quantization["int8"], quantization["weight_only"]) == (36, True)
    assert quantization["tables"]["int8"] == ["embeddings.word_embeddings/Gather"]
    assert (quantization["method"], quantization["texts"]) == ("none", 0)
    assert quantization["sqnr_db"] > 28
    assert quantization["cosine_min"] > 0.99
    assert rtx["bytes"] < 30e6
    assert rtx["kernels"]["fused_attention"] == 6
    assert cpu["bytes"] < 27e6
    assert any("hardly faster" in note for note in report["notes"])
    assert not (tmp_path / "b" / "calibration.json").exists()


def test_fp8(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    report = report_of(tmp_path / "b", "tensorrt-rtx", precision="fp8")
    quantization, rtx = report["quantization"], report["targets"]["tensorrt-rtx"]
    assert (quantization["fp8"], quantization["int8"], quantization["format"]) == (36, 0, "fp8")
    assert quantization["sqnr_db"] > 21
    assert quantization["cosine_min"] > 0.98
    assert rtx["compute_capabilities"] == ["SM89", "SM120"]
    assert rtx["kernels"]["gemm_dtypes"] == {"FP8|FP8->Half": 36}
    assert rtx["kernels"]["fused_attention"] == 6
    assert (tmp_path / "b" / "calibration.json").exists()
