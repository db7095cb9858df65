from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.base import PassResult
from fuselage.passes.normalize.clean_up import CleanUp
from fuselage.passes.normalize.infer_shapes import InferShapes


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


MESSY = """messy (float[b, 4] x) => (float[b, 4] y)
{
    same = Identity(x)
    dead = Neg(x)
    c = Constant<value_float = 2.0>()
    a1 = Mul(c, same)
    a2 = Mul(x, c)
    k = Add(w, a1)
    l = Add(w2, a2)
    y = Mul(k, l)
}"""
X = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


@pytest.fixture
def messy(parse: Any) -> ir.Model:
    w = np.arange(4, dtype=np.float32)
    model: ir.Model = parse(MESSY, w=w, w2=w.copy())
    return model


def test_identities_dead_nodes_and_duplicates_go(
    messy: ir.Model, apply: Any, same_numbers: Any
) -> None:
    after, outcome = apply(CleanUp(), messy)
    assert kinds(after) == ["Mul", "Add", "Mul"]
    assert outcome.modified
    assert outcome.rewrites >= len(messy.graph) - 3
    assert len(after.graph.initializers) == 2  # c and one of w and w2
    same_numbers(messy, after, X, atol=0, rtol=0)
    again, second = apply(CleanUp(), after)
    assert (second.modified, second.rewrites) == (False, 0)
    assert kinds(again) == kinds(after)


def test_constants_stand_on_the_right(messy: ir.Model, apply: Any) -> None:
    after, _ = apply(CleanUp(), messy)
    for node in list(after.graph)[:2]:
        assert node.inputs[0].const_value is None
        assert node.inputs[1].const_value is not None


def test_two_constants_keep_their_order(parse: Any, apply: Any) -> None:
    model = parse(
        "both (float[b] x) => (float[b] y) { c = Add(v, w)\n y = Mul(x, c) }",
        v=np.float32(1),
        w=np.float32(2),
    )
    assert not apply(CleanUp(), model)[1].modified


def test_turning_an_operand_is_a_change(parse: Any, apply: Any, same_numbers: Any) -> None:
    model = parse("turn (float[b, 4] x) => (float[b, 4] y) { y = Mul(w, x) }", w=np.float32(2))
    after, outcome = apply(CleanUp(), model)
    assert (outcome.modified, outcome.rewrites) == (True, 1)
    assert after.graph[0].inputs[0].name == "x"
    same_numbers(model, after, X, atol=0, rtol=0)


@pytest.mark.parametrize("op", ["Sub", "Div", "Pow"])
def test_operators_that_do_not_commute_are_not_turned(
    parse: Any, apply: Any, same_numbers: Any, op: str
) -> None:
    model = parse(f"keep (float[b, 4] x) => (float[b, 4] y) {{ y = {op}(two, x) }}",
                  two=np.float32(2))  # fmt: skip
    after, outcome = apply(CleanUp(), model)
    assert not outcome.modified
    same_numbers(model, after, {"x": X["x"] + 1}, atol=0, rtol=0)


def test_outputs_keep_their_names(parse: Any, apply: Any, same_numbers: Any) -> None:
    model = parse(
        """outs (float[b, 4] x) => (float[b, 4] y, float[b, 4] z, float[b, 4] same)
        { y = Neg(x)
          z = Neg(x)
          same = Identity(x) }"""
    )
    after, _ = apply(CleanUp(), model)
    assert [value.name for value in after.graph.outputs] == ["y", "z", "same"]
    same_numbers(model, after, X, atol=0, rtol=0)


def test_functions_are_inlined(apply: Any, same_numbers: Any) -> None:
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["" : 23, "own" : 1]>
        f (float[b, 4] x) => (float[b, 4] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["" : 23]>
        twice (a) => (c) { c = Add(a, a) }""")
    after, outcome = apply(CleanUp(), model)
    assert outcome.modified
    assert (kinds(after), len(after.functions)) == (["Add"], 0)
    same_numbers(model, after, X, atol=0, rtol=0)


def test_shapes_are_propagated_through_shape_arithmetic(parse: Any, apply: Any) -> None:
    model = parse(
        """infer (float[b, s, 8] x) => (float[b, s, 2, 4] y)
        { n = Shape<start = 0, end = 2>(x)
          to = Concat<axis = 0>(n, tail)
          h = Reshape(x, to)
          y = Neg(h) }""",
        tail=np.array([2, 4]),
    )
    after, outcome = apply(InferShapes(), model)
    assert outcome.rewrites == 3
    h = after.graph[2].outputs[0]
    assert (h.dtype, [str(dim) for dim in h.shape]) == (ir.DataType.FLOAT, ["b", "s", "2", "4"])
    assert not apply(InferShapes(), after)[1].modified


def test_sizes_behind_a_known_rank_are_learnt(parse: Any, apply: Any) -> None:
    """Exporters write [None, None] where inference knows better: that is a change to keep."""
    model = parse("rank (float[b, 4] x) => (float[b, 4] y) { h = Neg(x)\n y = Neg(h) }")
    h = model.graph[0].outputs[0]
    h.dtype, h.shape = ir.DataType.FLOAT, ir.Shape([None, None])
    after, outcome = apply(InferShapes(), model)
    assert outcome.rewrites == 1
    assert [str(dim) for dim in after.graph[0].outputs[0].shape] == ["b", "4"]
    assert [str(dim) for dim in h.shape] == ["None", "None"]


def test_a_concatenation_of_one_goes(parse: Any, apply: Any, same_numbers: Any) -> None:
    model = parse("lone (float[b, 4] x) => (float[b, 4] y) { h = Concat<axis=0>(x)\n y = Neg(h) }")
    after, outcome = apply(CleanUp(), model)
    assert (kinds(after), outcome.modified) == (["Neg"], True)
    assert not apply(CleanUp(), after)[1].modified
    same_numbers(model, after, X, atol=0, rtol=0)


PARTIAL = """<ir_version: 10, opset_import: ["" : 20, "own" : 1]>
f (float[4] x) => (float[4] y) { y = own.both(x) }
<domain: "own", opset_import: ["" : 20]> both (x) => (a, b) { a = Neg(x)  b = Abs(x) }"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PARTIAL, "1 of its 2 outputs are asked for; no function is inlined"),
        (
            PARTIAL.replace('opset_import: ["" : 20]', 'opset_import: ["" : 18]'),
            "the function imports opset 18 of 'ai.onnx', the model opset 20; no function",
        ),
    ],
    ids=["outputs", "opset"],
)
def test_functions_that_do_not_fit_stay(text: str, reason: str) -> None:
    model = ir.from_onnx_text(text)
    outcome = CleanUp()(model)
    assert isinstance(outcome, PassResult)
    assert [refusal.reason.startswith(reason) for refusal in outcome.refusals] == [True]
    assert [node.op_type for node in model.graph] == ["both"]


def test_a_branch_keeps_the_identity_that_gives_an_outer_value(
    parse: Any, apply: Any, same_numbers: Any
) -> None:
    model = parse(
        """f (bool c, float[2] x) => (float[2] y) {
            n = Neg(x)
            i = Identity(n)
            y = If (c) <
                then_branch = first () => (float[2] a) { a = Identity(i) },
                else_branch = second () => (float[2] b) { b = Abs(i) }
            >
        }"""
    )
    after, outcome = apply(CleanUp(), model)
    assert outcome.modified
    assert [node.op_type for node in after.graph] == ["Neg", "If"]
    feeds = {"x": np.array([1, -2], np.float32)}
    for choice in (True, False):
        same_numbers(model, after, feeds | {"c": np.array(choice)}, atol=0, rtol=0)
    assert not apply(CleanUp(), after)[1].modified
