"""The canonical chain is recognised to the last operand: what is shared by layers must be it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.padding_mask import mask_fill, padding_source, write_padding_mask

CONSTANTS = {
    "zero": np.float32(0),
    "one_f": np.float32(1),
    "fill": np.float32(-1e38),
    "weak": np.float32(-9999),
    "weakest": np.float32(-10000),
    "lowest": np.finfo(np.float32).min,
    "infinite": np.float32(-np.inf),
    "row": np.zeros((1, 1, 1, 2), np.float32),
    "axes12": np.array([1, 2]),
    "axes13": np.array([1, 3]),
    "ones": np.array([1, 1]),
    "twos": np.array([1, 2]),
    "one": np.array([1]),
    "two": np.array([2]),
    "i1": np.int64(1),
    "fixed": np.array([1, 1, 7, 1]),
}
CHAIN = {
    "keep": "Cast<to = 9>(padding)",
    "keep4": "Unsqueeze(keep, axes12)",
    "bias": "Where(keep4, zero, fill)",
    "length": "Shape<start = 1, end = 2>(padding)",
    "target": "Concat<axis = 0>(ones, length, one)",
    "mask": "Expand(bias, target)",
}
HEAD = """net (int64[b, s] padding, int64[b, s] ids, int64[b, t] other, float[b, s] number)
    => (float[b, h, q, k] mask)"""


def mask_of(parse: Any, before: str = "", **changed: str) -> ir.Value:
    lines = [f"{name} = {body}" for name, body in (CHAIN | changed).items()]
    body = "\n".join((before, *lines))
    model: ir.Model = parse(f"{HEAD} {{ {body} }}", **CONSTANTS)
    return model.graph.outputs[0]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"bias": "Where(keep4, zero, weakest)"},
        {"length": "Shape<start = 1, end = 2>(ids)"},  # of the same size
    ],
    ids=str,
)
def test_the_chain_is_recognised(parse: Any, changed: dict[str, str]) -> None:
    source = padding_source(mask_of(parse, **changed))
    assert source is not None
    assert source.name == "padding"


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE])
def test_what_is_written_is_recognised(parse: Any, dtype: ir.DataType) -> None:
    model = parse("net (int64[b, s] padding) => (int64[b, s] y) { y = Neg(padding) }")
    tape = ir.tape.Tape()
    mask = write_padding_mask(model.graph, tape, model.graph.inputs[0], dtype)
    model.graph.insert_before(model.graph[0], tape.nodes)
    assert padding_source(mask) is model.graph.inputs[0]
    assert (mask.dtype, str(mask.shape)) == (dtype, "[b,1,s,s]")
    assert "padding.drop" in model.graph.initializers


LOOKALIKES: dict[str, dict[str, str]] = {
    "padding of the queries": {"keep4": "Unsqueeze(keep, axes13)"},
    "kept keys are shifted": {"bias": "Where(keep4, one_f, fill)"},
    "kept keys have no constant": {"bias": "Where(keep4, row, fill)"},
    "the fill is too weak": {"bias": "Where(keep4, zero, weak)"},
    "the fill is positive": {"bias": "Where(keep4, zero, one_f)"},
    "the fill is infinite": {"bias": "Where(keep4, zero, infinite)"},
    "the fill is the lowest": {"bias": "Where(keep4, zero, lowest)"},
    "the fill is no scalar": {"bias": "Where(keep4, zero, row)"},
    "the fill is first": {"bias": "Where(keep4, fill, zero)"},
    "the batch": {"length": "Shape<start = 0, end = 1>(padding)"},
    "all sizes": {
        "length": "Shape<start = 1>(padding)",
        "target": "Concat<axis = 0>(ones, length)",
    },
    "two sizes": {"length": "Shape(padding)"},
    "the length of another input": {"length": "Shape<start = 1, end = 2>(other)"},
    "a constant length": {"length": "Identity(two)"},
    "a constant target": {"target": "Identity(fixed)"},
    "another head size": {"target": "Concat<axis = 0>(twos, length, one)"},
    "another key size": {"target": "Concat<axis = 0>(ones, length, two)"},
    "four parts": {"target": "Concat<axis = 0>(one, one, length, one)"},
    "no expansion": {"mask": "Identity(bias)"},
    "no choice": {"bias": "Cast<to = 1>(keep4)"},
    "a comparison": {"keep": "Equal(padding, i1)"},
    "no new axes": {"keep4": "Not(keep)"},
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalikes_are_not_taken_for_it(parse: Any, name: str) -> None:
    assert padding_source(mask_of(parse, **LOOKALIKES[name])) is None


def test_an_inner_tensor_is_no_padding_input(parse: Any) -> None:
    mask = mask_of(parse, "inner = Neg(padding)", keep="Cast<to = 9>(inner)")
    assert padding_source(mask) is None


def test_an_input_is_no_chain(parse: Any) -> None:
    model = parse("net (float[b, 1, s, s] mask) => (float[b, 1, s, s] y) { y = Neg(mask) }")
    assert padding_source(model.graph.inputs[0]) is None


@pytest.mark.parametrize("unknown", [0, 1])
def test_sizes_of_unknown_inputs_are_not_equal(parse: Any, unknown: int) -> None:
    mask = mask_of(parse, length="Shape<start = 1, end = 2>(ids)")
    graph = mask.producer().graph  # type: ignore[union-attr]
    graph.inputs[unknown].shape = None  # type: ignore[union-attr]
    assert padding_source(mask) is None


def test_two_unnamed_sizes_are_not_equal(parse: Any) -> None:
    mask = mask_of(parse, length="Shape<start = 1, end = 2>(ids)")
    graph = mask.producer().graph  # type: ignore[union-attr]
    for value in graph.inputs[:2]:  # type: ignore[union-attr]
        value.shape = ir.Shape(["b", None])
    assert padding_source(mask) is None


def test_the_fill_keeps_its_distance_from_the_lowest_number() -> None:
    assert mask_fill(ir.DataType.FLOAT) == pytest.approx(-3.0625e38, rel=1e-4)
    assert mask_fill(ir.DataType.FLOAT16) == pytest.approx(-58953.6)
