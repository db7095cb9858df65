"""Which columns of a tensor a slice or an output of a split holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.last_axis import every_second_of, part_of
from fuselage.passes.normalize.infer_shapes import InferShapes

CONSTANTS = {f"i{n}": np.array([n]) for n in range(9)} | {
    "end": np.array([2**63 - 1]),
    "start": np.array([-(2**63)]),
    "m1": np.array([-1]),
    "m3": np.array([-3]),
    "two_axes": np.array([1, 2]),
    "zeros": np.array([0, 0]),
    "sizes": np.array([1, 4, 3]),
}
HALF = "shape = Shape(x)\n w = Gather(shape, i2)\n half = Div(w, i2)\n"


@pytest.fixture
def value(parse: Any) -> Any:
    def make(body: str, name: str = "y", width: str = "8") -> ir.Value:
        model = parse(f"part (float[b, s, {width}] x) => (float y) {{ {body} }}", **CONSTANTS)
        InferShapes()(model)
        outputs = {item.name: item for node in model.graph for item in node.outputs}
        found: ir.Value = outputs[name]
        return found

    return make


@pytest.mark.parametrize(
    ("body", "columns"),
    [
        ("y = Slice(x, i2, i5, i2, i1)", (2, 5)),
        ("y = Slice(x, i2, i5, m1)", (2, 5)),
        ("y = Slice(x, start, m3, i2, i1)", (0, 5)),
        ("y = Slice(x, m3, end, m1, i1)", (5, 8)),
        (HALF + "y = Slice(x, half, end, i2, i1)", (4, 8)),
        (HALF + "y = Slice(x, i0, half, i2, i1)", (0, 4)),
        ("a, y, c = Split<axis = -1>(x, sizes)", (1, 5)),
        ("a, b, c, y = Split<axis = 2, num_outputs = 4>(x)", (6, 8)),
    ],
)
def test_columns(value: Any, body: str, columns: tuple[int, int]) -> None:
    part = part_of(value(body))
    assert part is not None
    assert (part.source.name, part.start, part.stop) == ("x", *columns)
    assert part.width == columns[1] - columns[0]


@pytest.mark.parametrize(
    "body",
    [
        "y = Slice(x, i2, i6, i2, i2)",  # every other column
        "y = Slice(x, i2, i5, i1, i1)",  # rows
        "y = Slice(x, zeros, zeros, two_axes)",
        "y = Slice(x, i2, i5)",  # axis 0
        "y = Slice(x, i5, i2, i2, i1)",  # nothing
        "a, y = Split<axis = 1, num_outputs = 2>(x)",
        "y = Neg(x)",
    ],
)
def test_no_columns(value: Any, body: str) -> None:
    assert part_of(value(body)) is None
    assert part_of(None) is None


def test_an_unknown_width_has_no_parts(value: Any) -> None:
    assert part_of(value("y = Slice(x, i2, i5, i2, i1)", width="w")) is None


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        ("y = Slice(x, i0, end, i2, i2)", 0),
        ("y = Slice(x, i1, i8, m1, i2)", 1),
        ("y = Slice(x, i2, end, i2, i2)", None),
        ("y = Slice(x, i1, i5, i2, i2)", None),  # stops early
        ("y = Slice(x, i1, end, i1, i2)", None),  # rows
        ("y = Slice(x, i1, end, i2, i3)", None),
        ("y = Slice(x, i1, end, i2)", None),
    ],
)
def test_every_second_column(value: Any, body: str, offset: int | None) -> None:
    found = every_second_of(value(body))
    assert (None if found is None else (found[0].name, found[1])) == (
        None if offset is None else ("x", offset)
    )


def test_every_second_column_of_an_odd_width_is_no_half(value: Any) -> None:
    assert every_second_of(value("y = Slice(x, i0, end, i2, i2)", width="7")) is None
