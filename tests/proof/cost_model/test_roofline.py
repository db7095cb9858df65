"""Floors, ranks, and which kernel computes which node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fuselage.compiler.precisions.cost import RATES
from fuselage.engines.base import BuildConfig
from fuselage.engines.ort.backend import MODEL, OrtBackend
from fuselage.errors import DeviceError
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile
from fuselage.proof.cost_model.counting import count
from fuselage.proof.cost_model.kernels import fused_from, kernels_of, unplaced
from fuselage.proof.cost_model.peaks import Peaks, gpu_peaks, measure_peaks
from fuselage.proof.cost_model.roofline import bottlenecks, floors

from .conftest import Parse

_PEAKS = Peaks(source="made up", flops=1e9, integer_flops=4e9, copies=((100, 4e9), (10_000, 1e9)))
_SIZES = {"batch": 2, "sequence": 4}


def test_the_floor_is_the_longer_of_arithmetic_and_traffic() -> None:
    assert _PEAKS.floor(1e6, 1e3) == pytest.approx(1e-3)
    assert _PEAKS.bound(1e6, 1e3) == "compute"
    assert _PEAKS.floor(10, 1e4) == pytest.approx(1e-5)
    assert _PEAKS.bound(10, 1e4) == "memory"
    assert _PEAKS.floor(1e6, 1e3, integer=True) == pytest.approx(0.25e-3)


def test_what_fits_a_cache_may_move_faster() -> None:
    assert _PEAKS.bandwidth(50) == 4e9
    assert _PEAKS.bandwidth(5_000) == 1e9
    assert _PEAKS.bandwidth(1e9) == 1e9


def test_a_rate_that_was_seen_raises_the_peak() -> None:
    raised = _PEAKS.raised(3e9, 1e9)
    assert (raised.flops, raised.integer_flops) == (3e9, 4e9)


def test_classes_are_ranked_by_time(block: Graph) -> None:
    cost = count(block)
    least = floors(cost, _SIZES, _PEAKS)
    times: list[float | None] = [1e-6] * len(cost.nodes)
    slow = [node.name for node in cost.nodes].index("n_g")
    times[slow] = 1e-3
    ranked = bottlenecks(cost, least, times)
    assert ranked[0].name == "Gelu"
    assert ranked[0].achieved == pytest.approx(least[slow].seconds / 1e-3)
    assert {row.name for row in ranked} >= {"MatMul [8, 8]", "MatMul [8, 16]", "MatMul [16, 8]"}
    assert sum(row.nodes for row in ranked) == len(cost.nodes)
    bounds = {row.name: row.bound for row in ranked}
    # 256 operations a token at 1e9 a second against 96 bytes at 1e9; 8 against 96
    assert (bounds["MatMul [8, 16]"], bounds["Add"]) == ("compute", "memory")
    views = next(row for row in ranked if row.name == "Unsqueeze")
    assert (views.bound, views.floor) == ("none", 0.0)


def test_without_times_floors_are_ranked(block: Graph) -> None:
    cost = count(block)
    ranked = bottlenecks(cost, floors(cost, _SIZES, _PEAKS), None)
    assert all(row.seconds is None and row.achieved is None for row in ranked)
    assert sum(row.share for row in ranked) == pytest.approx(1)
    assert [row.share for row in ranked] == sorted((row.share for row in ranked), reverse=True)


def test_the_machine_has_peaks() -> None:
    peaks = measure_peaks(threads=1, seconds=0.0)
    assert peaks.flops > 0
    assert peaks.integer_flops > 0
    assert [size for size, _ in peaks.copies] == [1 << 18, 1 << 22, 1 << 26]
    assert all(rate > 0 for _, rate in peaks.copies)


def test_peaks_of_gpus_come_from_data_sheets() -> None:
    sheet = RATES["SM89"]
    precisions = ("fp32", "fp16", "bf16", "int8", "fp8")
    assert [gpu_peaks("SM89", precision).flops for precision in precisions] == [
        sheet.single,
        sheet.half,
        sheet.half,
        sheet.int8,
        sheet.fp8,
    ]
    assert gpu_peaks("SM89", "fp16").bandwidth(1) == sheet.bandwidth
    with pytest.raises(
        DeviceError, match=r"compute capability 'SM10': the rates of SM75, .* known"
    ):
        gpu_peaks("SM10", "fp16")


def test_nodes_that_onnx_runtime_fused_are_found(parse: Parse, tmp_path: Path) -> None:
    source = parse(
        """g (float[batch, n, 4] x) => (float[batch, n, 8] y)
        { m = MatMul(x, w)  a = Add(m, b)  g = Gelu(a)  y = Softmax(g) }""",
        w=np.ones((4, 8), np.float32),
        b=np.ones(8, np.float32),
    )
    OrtBackend("ort-cpu").build(source, BuildConfig(profile=ShapeProfile({})), tmp_path)
    engine = Graph.load(tmp_path / MODEL)
    joined = dict(
        zip((node.op_type for node in engine.model.graph), fused_from(engine, source), strict=True)
    )
    assert joined["BiasGelu"] == ("n_a", "n_g")
    assert joined["MatMul"] == ("n_m",)
    assert joined["Softmax"] == ("n_y",)
    assert unplaced(list(joined.values()), source) == ()
    assert unplaced([("n_m",)], source) == ("n_a", "n_g", "n_y")


def test_kernels_of_a_plan_are_listed_by_node() -> None:
    listed = [
        {"name": "k1", "nodes": ["a", "b"], "profile": 0},
        {"name": "k2", "nodes": ["b"], "profile": 0},
        {"name": "k3", "nodes": ["a"], "profile": 1},
    ]
    assert kernels_of(listed) == {"a": ("k1",), "b": ("k1", "k2")}
    assert kernels_of(listed, profile=1) == {"a": ("k3",)}
