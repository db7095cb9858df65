from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.errors import OpsetError
from fuselage.passes.raise_opset import RaiseOpset

PLAIN = "plain (float[b, 4] x) => (float[b, 4] y) { h = Softmax(x)\n y = Neg(h) }"


@pytest.mark.parametrize("opset", [18, 20, 22])
def test_the_import_is_raised_and_the_numbers_stay(
    parse: Any, apply: Any, same_numbers: Any, opset: int
) -> None:
    model = parse(PLAIN, opset=opset)
    after, outcome = apply(RaiseOpset(), model)
    assert outcome.rewrites == 1
    assert after.opset_imports[""] == 23
    assert model.opset_imports[""] == opset
    same_numbers(model, after, {"x": np.ones((2, 4), np.float32)}, atol=0, rtol=0)
    assert not apply(RaiseOpset(), after)[1].modified


@pytest.mark.parametrize("opset", [23, 24])
def test_newer_graphs_are_left_alone(parse: Any, opset: int) -> None:
    model = parse(PLAIN, opset=opset)
    assert not RaiseOpset()(model).modified
    assert model.opset_imports[""] == opset


def reason(model: ir.Model, step: RaiseOpset | None = None) -> str:
    with pytest.raises(ir.passes.PreconditionError) as caught:
        (step or RaiseOpset())(model)
    assert isinstance(caught.value.__cause__, OpsetError)
    return str(caught.value.__cause__)


@pytest.mark.parametrize("opset", [0, 11, 17])
def test_old_opsets_are_refused(parse: Any, opset: int) -> None:
    model = parse(PLAIN, opset=18)
    if opset:
        model.opset_imports[""] = opset
    else:
        del model.opset_imports[""]
    assert reason(model) == (
        f"pass raise-opset: expected a graph of opset 18 or newer, got opset {opset}; "
        "export again with opset_version=18 or later, or convert it with onnx.version_converter"
    )


CHANGED = {
    "GroupNormalization": ("y = GroupNormalization<num_groups = 2>(x, w, w)", 21),
    "AveragePool": ("y = AveragePool<kernel_shape = [2, 2]>(x)", 19),
    "Resize": ("y = Resize(x, , scales)", 19),
    "GridSample": ("y = GridSample(x, x)", 20),
    "DFT": ("y = DFT(x)", 20),
}


@pytest.mark.parametrize("op_type", CHANGED)
def test_operators_that_changed_are_refused_by_name(parse: Any, op_type: str) -> None:
    body, changed = CHANGED[op_type]
    text = f"changed (float[1, 2, 4, 4] x, float[2] w) => (float[a, b, c, d] y) {{ {body} }}"
    scales = np.ones(4, np.float32)
    model = parse(text, opset=changed - 1, scales=scales)
    assert reason(model) == (
        f"pass raise-opset: node 'n_y' is {op_type}, whose meaning changed in opset {changed}; "
        "export again with opset_version=23"
    )
    assert RaiseOpset()(parse(text, opset=changed, scales=scales)).modified
    assert RaiseOpset(opset=changed - 1)(parse(text, opset=18, scales=scales)).model


def test_a_foreign_operator_of_the_same_name_is_no_obstacle(parse: Any) -> None:
    model = parse("own (float[4] x) => (float[4] y) { y = com.microsoft.Resize(x) }", opset=18)
    assert RaiseOpset()(model).modified
