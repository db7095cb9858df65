from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fuselage.passes.normalize.fold_constants import FoldConstants
from fuselage.passes.normalize.growth import predicted_elements

X = np.ones((2, 3), np.float32)
GROWING: dict[str, tuple[str, dict[str, Any], int]] = {
    "ConstantOfShape": ("c = ConstantOfShape(s)", {"s": np.array([4, 5])}, 20),
    "Expand": ("c = Expand(v, s)", {"v": X, "s": np.array([5, 1, 3])}, 30),
    "OneHot": (
        "c = OneHot(i, d, e)",
        {"i": np.array([1, 0, 2]), "d": np.array(7), "e": np.array([0.0, 1.0], np.float32)},
        21,
    ),
    "Pad": ("c = Pad(v, s)", {"v": X, "s": np.array([1, 0, 2, 4])}, 35),
    "Range": (
        "c = Range(a, b, d)",
        {"a": np.float32(1), "b": np.float32(10), "d": np.float32(2)},
        5,
    ),
    "Tile": ("c = Tile(v, s)", {"v": X, "s": np.array([3, 2])}, 36),
    "Resize": (
        'c = Resize<mode = "nearest">(v, , , s)',
        {"v": X, "s": np.array([4, 6])},
        24,
    ),
    "Resize by scales": (
        'c = Resize<mode = "nearest">(v, , s)',
        {"v": X, "s": np.array([2, 3], np.float32)},
        36,
    ),
}


@pytest.mark.parametrize(("body", "constants", "elements"), GROWING.values(), ids=GROWING)
def test_the_size_is_known_before_the_value(
    body: str, constants: dict[str, Any], elements: int, parse: Any
) -> None:
    text = f"f (float[n] x) => (float[n] y, float[m] c) {{ {body}  y = Neg(x) }}"
    model = parse(text, **constants)
    assert predicted_elements(model.graph[0]) == elements
    model.graph.outputs.pop()
    model = parse(text.replace(", float[m] c", ""), **constants)
    FoldConstants(growth_bytes=1 << 10)(model)
    folded = [v for name, v in model.graph.initializers.items() if name.endswith(".folded")]
    assert [value.const_value.size for value in folded] == [elements]


HUGE: dict[str, tuple[str, dict[str, Any]]] = {
    "ConstantOfShape": ("c = ConstantOfShape(s)", {"s": np.array([1 << 40])}),
    "Expand": ("c = Expand(v, s)", {"v": X, "s": np.array([1 << 38, 1, 1])}),
    "Range": ("c = Range(a, b, d)", {"a": np.int64(0), "b": np.int64(1 << 40), "d": np.int64(1)}),
    "Tile": ("c = Tile(v, s)", {"v": X, "s": np.array([1 << 20, 1 << 20])}),
    "Range without step": (
        "c = Range(a, b, d)",
        {"a": np.int64(0), "b": np.int64(9), "d": np.int64(0)},
    ),
}


@pytest.mark.parametrize(("body", "constants"), HUGE.values(), ids=HUGE)
def test_constants_of_any_size_are_not_computed(
    body: str, constants: dict[str, Any], parse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fuselage.passes.normalize import fold_constants

    def never(*_: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(fold_constants, "_evaluate", never)
    text = f"f (float[n] x) => (float[n] y) {{ {body}  z = Size(c)  w = Cast<to = 1>(z)"
    model = parse(f"{text}  y = Add(x, w) }}", **constants)
    assert not FoldConstants()(model).modified
