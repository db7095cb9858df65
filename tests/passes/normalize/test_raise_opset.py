"""Older graphs get the meaning they had: numbers are compared with the graph as it was."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fuselage.errors import OpsetError
from fuselage.passes.normalize.infer_shapes import InferShapes
from fuselage.passes.normalize.opset_changes import CHANGES
from fuselage.passes.normalize.raise_opset import OLDEST, RaiseOpset

PLAIN = "plain (float[b, 4] x) => (float[b, 4] y) { h = Softmax(x)\n y = Neg(h) }"


@pytest.mark.parametrize("opset", [13, 14, 17, 18, 20, 22])
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


@pytest.mark.parametrize("opset", [0, 7, 10])
def test_older_opsets_are_refused(parse: Any, opset: int) -> None:
    model = parse(PLAIN, opset=18)
    if opset:
        model.opset_imports[""] = opset
    else:
        del model.opset_imports[""]
    assert reason(model) == (
        f"pass raise-opset: expected a graph of opset 11 or newer, got opset {opset}; "
        "export again with opset_version=11 or later"
    )


def test_an_opset_that_onnx_does_not_know_is_refused(parse: Any) -> None:
    model, known = parse(PLAIN), onnx.defs.onnx_opset_version()
    model.opset_imports[""] = known + 1
    assert reason(model) == (
        f"pass raise-opset: the graph imports opset {known + 1}, the installed onnx "
        f"{onnx.__version__} knows none beyond {known}; install a newer onnx or export with an "
        "older opset"
    )


REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
CASES: dict[str, tuple[int, str, int]] = {
    **{
        f"Reduce{kind} over an axis": (17, f"y = Reduce{kind}<axes = [-1], keepdims = 1>(x)", 1)
        for kind in REDUCTIONS
    },
    "a reduction over two axes": (13, "y = ReduceMean<axes = [1, 2], keepdims = 0>(x)", 1),
    "a reduction over all axes": (14, "y = ReduceMax<keepdims = 0>(x)", 1),
    "ReduceSum": (12, "y = ReduceSum<axes = [1]>(x)", 1),
    "equal parts": (17, "a, y = Split<axis = -1>(x)", 1),
    "sizes as an attribute": (11, "a, y = Split<axis = -1, split = [1, 3]>(x)", 2),
    "sizes as an input": (13, "a, y = Split<axis = -1>(x, sizes)", 1),
    "Unsqueeze": (12, "y = Unsqueeze<axes = [0, 3]>(x)", 1),
    "Squeeze": (11, "h = Unsqueeze<axes = [1]>(x)\n y = Squeeze<axes = [1]>(h)", 2),
    "Squeeze of every 1": (12, "h = Unsqueeze<axes = [1]>(x)\n y = Squeeze(h)", 2),
    "Softmax over the last axis": (12, "y = Softmax<axis = 2>(x)", 1),
    "LogSoftmax counted from the end": (11, "y = LogSoftmax<axis = -1>(x)", 1),
    "Dropout": (11, "h = Dropout<ratio = 0.3>(x)\n y = Neg(h)", 1),
    "GridSample": (17, "h = Unsqueeze(x, zero)\n y = GridSample<mode = \"bicubic\">(h, grid)", 1),
    "GridSample by default": (16, "h = Unsqueeze(x, zero)\n y = GridSample(h, grid)", 1),
    "BatchNormalization": (13, "y = BatchNormalization(x, w, w, w, w)", 1),
    "an average without ceil_mode": (
        13, "h = Unsqueeze(x, zero)\n y = AveragePool<kernel_shape = [2, 2]>(h)", 2),
    "Resize": (13, "h = Unsqueeze(x, zero)\n y = Resize<mode = \"linear\">(h, , scales)", 0),
}  # fmt: skip

CONSTANTS = {
    "sizes": np.array([3, 1]),
    "zero": np.array([0]),
    "grid": np.random.default_rng(0).uniform(-1, 1, (1, 2, 2, 2)).astype(np.float32),
    "w": np.array([0.5, 1.0, 2.0], np.float32),
    "scales": np.array([1, 1, 2, 1.5], np.float32),
}


@pytest.mark.parametrize("case", CASES)
def test_changed_operators_give_the_same_numbers(
    parse: Any, apply: Any, same_numbers: Any, rng: np.random.Generator, case: str
) -> None:
    opset, body, adapted = CASES[case]
    model = parse(f"old (float[2, 3, 4] x) => (float y) {{ {body} }}", opset=opset, **CONSTANTS)
    model.graph.outputs[0].shape = None
    InferShapes()(model)
    for value in tuple(model.graph.initializers.values()):
        if not value.uses():
            del model.graph.initializers[value.name]
    after, outcome = apply(RaiseOpset(), model)
    assert outcome.rewrites == 1 + adapted
    x = rng.uniform(0.5, 2, (2, 3, 4)).astype(np.float32)
    same_numbers(model, after, {"x": x}, atol=0, rtol=3e-7)  # averages differ by one bit
    assert not apply(RaiseOpset(), after)[1].modified


def test_equal_axes_are_one_constant_and_no_weight_is_copied(parse: Any, apply: Any) -> None:
    weight = np.ones((4, 4), np.float32)
    model = parse(
        """mean (float[b, 4] x) => (float[b, 1] y)
        { m = ReduceMean<axes = [-1]>(x)
          c = Sub(x, m)
          h = MatMul(c, w)
          y = ReduceMean<axes = [-1]>(h) }""",
        opset=17,
        w=weight,
    )
    after, _ = apply(RaiseOpset(), model)
    added = set(after.graph.initializers) - set(model.graph.initializers)
    assert len(added) == 1
    assert after.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value


def test_branches_and_loop_bodies_are_adapted(parse: Any, apply: Any, same_numbers: Any) -> None:
    model = parse(
        """branch (bool c, float[b, 4] x) => (float[p, q] y)
        { y = If (c) <
            then_branch = g1 () => (float[p, q] t) { t = ReduceMean<axes = [-1]>(x) },
            else_branch = g2 () => (float[p, q] e) { e, f = Split<axis = 1>(x) }
          > }""",
        opset=17,
    )
    after, outcome = apply(RaiseOpset(), model)
    assert outcome.rewrites == 3
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for choice in (True, False):
        same_numbers(model, after, {"c": np.array(choice), "x": x}, atol=0, rtol=0)


REFUSED = {
    "GroupNormalization": (
        20, "y = GroupNormalization<num_groups = 2>(x, w, w)", 21,
        "its scale and bias were one a group and are one a channel now",
    ),
    "AveragePool": (
        18, "y = AveragePool<kernel_shape = [2, 2], ceil_mode = 1>(x)", 19,
        "with ceil_mode, windows that start in the padding are no longer counted",
    ),
    "MaxPool": (
        20, "y = MaxPool<kernel_shape = [2, 2], ceil_mode = 1>(x)", 22,
        "with ceil_mode, windows that start in the padding are no longer counted",
    ),
    "Softmax": (
        12, "y = Softmax<axis = 2>(x)", 13,
        "it flattens the axes from 2 on, which it no longer does (its input has rank 4)",
    ),
    "Hardmax": (
        11, "h = com.microsoft.Any(x)\n y = Hardmax(h)", 13,
        "it flattens the axes from 1 on, which it no longer does (its input has unknown rank)",
    ),
    "BatchNormalization": (
        13, "h, m, v, n, o = BatchNormalization(x, w, w, w, w)\n y = Add(h, m)", 14,
        "1 of its training outputs are read",
    ),
    "Dropout": (11, "h, m = Dropout(x)\n y = Where(m, x, h)", 12,
                "1 of its training outputs are read"),
    "Resize": (
        12, "y = Resize<coordinate_transformation_mode = \"tf_half_pixel_for_nn\">(x, r, s)", 13,
        "its mode tf_half_pixel_for_nn was removed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("op_type", REFUSED)
def test_what_cannot_be_said_any_more_is_refused_by_name(parse: Any, op_type: str) -> None:
    opset, body, changed, why = REFUSED[op_type]
    text = f"""changed (float[1, 2, 4, 4] x, float[2] w, float[8] r, float[4] s) =>
    (float[a, b, c, d] y) {{ {body} }}"""
    model = parse(text, opset=opset)
    (name,) = [node.name for node in model.graph if node.op_type == op_type]
    assert reason(model) == (
        f"pass raise-opset: node {name!r} is {op_type}, which changed in opset {changed}: {why}; "
        "export again with opset_version=23"
    )
    assert RaiseOpset(opset=changed - 1)(model).model


def test_a_foreign_operator_of_the_same_name_is_no_obstacle(parse: Any) -> None:
    model = parse(
        "own (float[4] x) => (float[4] y) { y = com.microsoft.ReduceMean<axes = [0]>(x) }",
        opset=17,
    )
    outcome = RaiseOpset()(model)
    assert outcome.rewrites == 1  # the import alone
    assert list(model.graph[0].attributes) == ["axes"]


def test_local_functions_are_left_to_inlining() -> None:
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
        f (float[b, 4] x) => (float[b, 4] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["" : 17]>
        twice (a) => (c) { c = Add(a, a) }""")
    assert reason(model) == (
        "pass raise-opset: the local function 'twice' imports an opset of its own; "
        "run clean-up first, which inlines functions"
    )


def _schemas() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, []).append(schema)
    return {name: sorted(all_, key=lambda s: s.since_version) for name, all_ in found.items()}


def _breaks(old: Any, new: Any) -> bool:
    """Whether a node of the old schema may be read differently under the new one."""
    required = type(new.inputs[0].option).Single if new.inputs else None
    if len(new.inputs) < len(old.inputs) or len(new.outputs) < len(old.outputs):
        return True
    if any(each.option == required for each in new.inputs[len(old.inputs) :]):
        return True
    for name, attribute in old.attributes.items():
        kept = new.attributes.get(name)
        if kept is None or kept.default_value != attribute.default_value:
            return True
    return any(each.required for name, each in new.attributes.items() if name not in old.attributes)


def test_the_table_names_every_operator_whose_signature_broke() -> None:
    """Derived from the schemas, so that a newer onnx cannot add one unseen."""
    broken: dict[str, list[int]] = {}
    for name, schemas in _schemas().items():
        for old, new in itertools.pairwise(schemas):
            if OLDEST < new.since_version <= RaiseOpset().opset and _breaks(old, new):
                broken.setdefault(name, []).append(new.since_version)
    listed = {name: [change.opset for change in CHANGES[name]] for name in CHANGES}
    assert {name: versions for name, versions in broken.items()
            if not set(versions) <= set(listed.get(name, []))} == {}  # fmt: skip
    assert len(broken) == 20
