"""What is said of numbers that were not compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.checks.verified import parse_verify, run_passes
from fuselage.errors import BuildError
from fuselage.graph.history import StageRecord
from fuselage.graph.model import Graph
from fuselage.passes.base import EXACT, Pass, PassResult, result

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
net (float[n, 4] x) => (float[n, 4] y) { y = Mul(x, scale) }"""


@dataclass(frozen=True)
class Scale(Pass):
    """Multiply the scale by a factor."""

    name = "scale"
    factor: float
    free: bool = False

    @property
    def tolerance(self) -> float | None:
        return None if self.free else EXACT

    def call(self, model: ir.Model) -> PassResult:
        value = model.graph.initializers["scale"]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(self.factor))
        return result(model, 1)


def graph_of(text: str = TEXT) -> Graph:
    return Graph(ir.from_onnx_text(text, [ir.tensor(np.float32(1), name="scale")]))


def scale_of(graph: Graph) -> float:
    tensor = graph.model.graph.initializers["scale"].const_value
    assert tensor is not None
    return float(tensor.numpy().item())


def test_passes_are_held_to_the_numbers_and_told_about() -> None:
    told: list[StageRecord] = []
    done = run_passes((Scale(1.0), Scale(2.0)), graph_of(), threads=1, on_record=told.append)
    assert done.not_checked is None
    assert scale_of(done.graph) == 1
    assert [record.rolled_back is None for record in told] == [True, False]
    assert tuple(told) == done.graph.history


def test_off_says_so() -> None:
    done = run_passes((Scale(2.0),), graph_of(), verify="off")
    assert scale_of(done.graph) == 2
    assert done.not_checked == "numbers were not checked, as asked by --verify off"


def test_a_pass_that_may_change_numbers_is_named_and_what_follows_is_checked() -> None:
    done = run_passes((Scale(2.0, free=True), Scale(3.0)), graph_of(), threads=1)
    assert scale_of(done.graph) == 2
    assert done.not_checked == (
        "numbers were not compared across scale(factor=2.0, free=True), which may change them "
        "freely"
    )


def test_a_graph_without_answers_says_why() -> None:
    text = TEXT.replace("y = Mul(x, scale)", "z = Mul(x, scale) y = RandomNormalLike(z)")
    done = run_passes((Scale(2.0),), graph_of(text), threads=1)
    assert scale_of(done.graph) == 2
    assert done.not_checked is not None
    assert done.not_checked.startswith("numbers were not checked: the graph draws random numbers")


def test_without_passes_there_is_nothing_to_check() -> None:
    graph = graph_of()
    done = run_passes((), graph, verify="off")
    assert done.graph is graph
    assert done.not_checked is None


def test_another_policy_is_refused() -> None:
    assert parse_verify("each") == "each"
    with pytest.raises(BuildError, match="verify 'twice': expected one of each, final, off"):
        parse_verify("twice")
