"""Casts that change no number are looked through, others are not."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from fuselage.passes.casts import uncast, unwidened
from fuselage.passes.normalize.infer_shapes import InferShapes

FLOAT, FLOAT16, BFLOAT16, DOUBLE, INT64 = 1, 10, 16, 11, 7


@pytest.fixture
def chain(parse: Any) -> Any:
    def make(source: str, *targets: int) -> ir.Value:
        names = ["x", *(f"c{index}" for index in range(len(targets)))]
        casts = "\n".join(
            f"{new} = Cast<to = {to}>({old})"
            for old, new, to in zip(names, names[1:], targets, strict=False)
        )
        model = parse(f"casts ({source}[s] x) => (float[s] y) {{ {casts}\n y = Neg({names[-1]}) }}")
        InferShapes()(model)
        value: ir.Value = model.graph[-1].inputs[0]
        return value

    return make


@pytest.mark.parametrize(
    ("source", "targets", "own", "wider"),
    [
        ("float", (FLOAT,), "x", "x"),
        ("float", (FLOAT, FLOAT), "x", "x"),
        ("float16", (FLOAT,), "c0", "x"),
        ("bfloat16", (FLOAT,), "c0", "x"),
        ("float16", (FLOAT16, FLOAT, FLOAT), "c1", "x"),
        ("float", (FLOAT16,), "c0", "c0"),
        ("float", (FLOAT16, FLOAT), "c1", "c0"),  # rounded: float32 again, other numbers
        ("float16", (BFLOAT16,), "c0", "c0"),
        ("int64", (FLOAT,), "c0", "c0"),
        ("int64", (INT64, FLOAT), "c1", "c1"),
        ("double", (FLOAT,), "c0", "c0"),
        ("float", (DOUBLE,), "c0", "c0"),
    ],
)
def test_casts(chain: Any, source: str, targets: tuple[int, ...], own: str, wider: str) -> None:
    value = chain(source, *targets)
    assert (uncast(value).name, unwidened(value).name) == (own, wider)
