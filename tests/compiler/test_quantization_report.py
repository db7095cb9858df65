"""The edges in report.json, on a tiny model with a float attention core and a small head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.calibration.damage.quality import Quality
from fuselage.calibration.metrics.bootstrap import Interval
from fuselage.calibration.run import calibrate
from fuselage.calibration.table import CalibrationTable
from fuselage.calibration.text.data import CalibrationSet
from fuselage.compiler.progress import Journal, Silent
from fuselage.compiler.quantization.edges import edges_of_plan, quality_facts
from fuselage.compiler.quantization.held_out import Findings, examine
from fuselage.graph.model import Graph
from fuselage.passes.qdq.params import FP8, INT8
from fuselage.passes.qdq.policy import QuantPolicy

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "report.md"

EDGE_KEYS = {
    "tensor", "linears", "format", "reason", "amax", "scale", "estimator", "alpha", "transform",
    "shift", "outlier", "weight_bits", "clip_rate", "headroom", "noise_share",
}  # fmt: skip
QUALITY_KEYS = {
    "sqnr_db", "sqnr_interval", "cosine_mean", "cosine_interval", "cosine_min", "held_out_texts",
}  # fmt: skip

GRAPH = """
<ir_version: 10, opset_import: ["" : 23]>
tiny (int64[batch, sequence] input_ids,
      float[64, 32] table, float[32] gain, float[32] shift, float[32, 32] wq, float[32, 32] wk,
      float[32, 48] wi, float[48, 32] wo, float[32, 4] wh) => (float[batch, sequence, 4] out)
{
    rows = Gather(table, input_ids)
    normed = LayerNormalization(rows, gain, shift)
    q = MatMul(normed, wq)
    k = MatMul(normed, wk)
    kt = Transpose <perm = [0, 2, 1]> (k)
    scores = MatMul(q, kt)
    weights = Softmax <axis = -1> (scores)
    mixed = MatMul(weights, q)
    inner = MatMul(mixed, wi)
    active = Gelu(inner)
    down = MatMul(active, wo)
    summed = Add(down, normed)
    out = MatMul(summed, wh)
}
"""


@dataclass(frozen=True)
class Row:
    ids: list[int]

    @property
    def type_ids(self) -> list[int]:
        return [0] * len(self.ids)

    @property
    def attention_mask(self) -> list[int]:
        return [1] * len(self.ids)

    @property
    def overflowing(self) -> tuple[()]:
        return ()


def tokenize(texts):
    """A token a character: letters are 3 to 28, capitals 33 to 58; 1 begins a text."""
    return [Row([1, *(min(ord(c) - 94 if c > "_" else ord(c) - 32, 63) for c in t)]) for t in texts]


def tiny() -> Graph:
    rng = np.random.default_rng(3)
    model = ir.from_onnx_text(GRAPH)
    for value in tuple(model.graph.inputs[1:]):
        model.graph.inputs.remove(value)
        shape = [int(size) for size in value.shape]
        array = rng.normal(0, 0.3, shape).astype(np.float32)
        if value.name == "table":
            array[1, 7] = 40.0  # the first token has an outlier in channel 7
            array[33:, 9] = 9.0  # capitals are another kind of text
        if value.name == "gain":
            array = np.ones(shape, np.float32)
        value.const_value = ir.tensor(array, name=value.name)
        model.graph.register_initializer(value)
    for node in model.graph:
        node.name = f"/{node.outputs[0].name}"
    return Graph(model)


GRAPHS = tiny()
LOWER = CalibrationSet.from_texts(
    ["abc", "some words", "the rest of it", "zebra", "why not", "quick brown fox", "jumps over"]
    + [f"{word} and {word}" for word in ("one", "two", "three", "four", "five", "six", "seven")]
    + ["lorem ipsum dolor sit amet", "a much longer line of plain text is here", "x", "yy"]
)
HELD = CalibrationSet.from_texts(["some other words", "the fox", "not seen before", "abba"])
UPPER = CalibrationSet.from_texts(["SOME OTHER WORDS", "THE FOX", "NOT SEEN BEFORE"])


def journal() -> Journal:
    return Journal(Silent())


@pytest.fixture(scope="module")
def table() -> CalibrationTable:
    return calibrate(GRAPHS, LOWER, tokenize)


@pytest.fixture(scope="module")
def findings(table: CalibrationTable) -> Findings:
    return examine(GRAPHS, table, QuantPolicy(), HELD, tokenize, journal())


def facts(table, findings, policy=None, scheme=INT8):
    plan = (policy or QuantPolicy()).plan(GRAPHS.model)
    edges = edges_of_plan(GRAPHS, plan, scheme, table, findings, {1: "[CLS]"}.get)
    return [edge.facts() for edge in edges]


def test_every_gemm_is_listed_once_in_graph_order_with_the_documented_keys(table, findings):
    found = facts(table, findings)
    assert [(edge["tensor"], edge["linears"], edge["format"]) for edge in found] == [
        ("normed", ["/q", "/k"], "int8"),
        ("q", ["/scores"], "float"),
        ("weights", ["/mixed"], "float"),
        ("mixed", ["/inner"], "int8"),
        ("active", ["/down"], "int8"),
        ("summed", ["/out"], "float"),
    ]
    assert all(set(edge) == EDGE_KEYS for edge in found)
    document = DOCUMENT.read_text("utf-8")
    assert [key for key in EDGE_KEYS | QUALITY_KEYS if f"`{key}`" not in document] == []


def test_float_edges_have_the_reason_and_nothing_else(table, findings):
    found = {edge["tensor"]: edge for edge in facts(table, findings)}
    assert "attention core stays float" in found["q"]["reason"]
    assert "N = 4: smaller than 16" in found["summed"]["reason"]
    for name in ("q", "weights", "summed"):
        others = EDGE_KEYS - {"tensor", "linears", "format", "reason"}
        assert {found[name][key] for key in others} == {None}


def test_int8_edges_have_range_transform_and_outlier(table, findings):
    normed, *_, active, _ = facts(table, findings)
    smoothing = table.ranges["normed"].smoothing
    assert normed["reason"] is None
    assert normed["amax"] == pytest.approx(smoothing.amax, rel=1e-3)
    assert normed["scale"] == pytest.approx(smoothing.amax / 127)
    assert (normed["alpha"], normed["shift"]) == (smoothing.alpha, "channel")
    assert normed["transform"] == "gain of LayerNormalization, one Mul restores it for others"
    assert normed["outlier"]["token"] == "[CLS]"
    assert (normed["outlier"]["channel"], normed["outlier"]["position"]) == (7, 0)
    assert normed["outlier"]["value"] > 2 * normed["outlier"]["median"]
    assert normed["weight_bits"] == 8
    assert active["transform"] in ("one Mul", "one Mul and one Add")


def test_shares_of_the_noise_add_up_and_clipping_is_that_of_the_findings(table, findings):
    found = [edge for edge in facts(table, findings) if edge["format"] == "int8"]
    assert sum(edge["noise_share"] for edge in found) == pytest.approx(1.0, abs=1e-3)
    assert min(edge["noise_share"] for edge in found) > 0
    for edge in found:
        headroom = findings.headroom[edge["tensor"]]
        assert edge["headroom"] == pytest.approx(headroom.reach, rel=1e-3)
        assert edge["clip_rate"] == pytest.approx(headroom.clip_rate, rel=1e-3)


def test_a_tensor_whose_linears_part_is_listed_twice(table, findings):
    first, second, *rest = facts(table, findings, QuantPolicy(keep_float=("/q",)))
    assert (first["tensor"], first["linears"]) == ("normed", ["/q"])
    assert (first["format"], first["reason"]) == ("float", "the policy keeps it in float")
    assert first["noise_share"] > 0  # it was measured, and given up for that
    assert (first["amax"], first["headroom"], first["transform"]) == (None, None, None)
    assert first["outlier"] == second["outlier"] is not None
    assert (second["tensor"], second["linears"], second["format"]) == ("normed", ["/k"], "int8")
    assert len(rest) == 5


def test_without_held_out_text_or_ranges_there_is_less_to_say(table):
    normed = facts(table, Findings())[0]
    assert {normed[key] for key in ("clip_rate", "headroom", "noise_share")} == {None}
    bare = replace(table, ranges={})
    weights = facts(bare, Findings(), QuantPolicy(weight_only=True))[0]
    assert (weights["format"], weights["weight_bits"], weights["amax"]) == ("int8", 8, None)
    assert facts(table, Findings(), QuantPolicy(scheme=FP8), FP8)[0]["format"] == "fp8"


@pytest.mark.parametrize("policy", [QuantPolicy(weight_only=True), QuantPolicy(scheme=FP8)])
def test_other_formats_are_measured_as_well(policy):
    calibrated = CalibrationTable.without_ranges(GRAPHS.digest())
    if not policy.weight_only:
        calibrated = calibrate(GRAPHS, LOWER, tokenize, policy=policy, method="absmax")
    found = examine(GRAPHS, calibrated, policy, HELD, tokenize, journal())
    assert len(found.noises) == 4
    assert all(item.noise > 1e-9 for item in found.noises)
    assert len(found.headroom) == (0 if policy.weight_only else 3)


def test_text_of_another_kind_is_pointed_out(table):
    log = journal()
    examine(GRAPHS, table, QuantPolicy(), HELD, tokenize, log)
    assert log.notes == []
    examine(GRAPHS, table, QuantPolicy(), UPPER, tokenize, log)
    (note,) = log.notes
    assert "exceeds the ranges of" in note
    assert "% is clipped, up to" in note


def test_quality_has_its_intervals():
    quality = Quality(
        texts=5, sqnr_db=24.12345, cosine_mean=0.99, cosine_min=0.9, worst=0,
        sqnr_interval=Interval(23.00049, 25.0), cosine_interval=Interval(0.98, 0.995),
    )  # fmt: skip
    assert quality_facts(quality) == {
        "sqnr_db": 24.123, "sqnr_interval": [23.0, 25.0], "cosine_mean": 0.99,
        "cosine_interval": [0.98, 0.995], "cosine_min": 0.9, "held_out_texts": 5,
    }  # fmt: skip
    assert set(quality_facts(None)) == QUALITY_KEYS == set(quality_facts(quality))
    single = replace(quality, sqnr_interval=None, cosine_interval=None)
    assert quality_facts(single)["sqnr_interval"] is None
