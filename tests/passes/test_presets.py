from __future__ import annotations

import pytest

from fuselage.passes.base import EXACT
from fuselage.passes.presets import CANONICAL, lowering


def test_the_order_of_the_canonical_passes_is_pinned() -> None:
    assert [step.spec for step in CANONICAL] == [
        "raise-opset(opset=23)",
        "clean-up",
        "fold-constants(growth_bytes=65536)",
        "infer-shapes",
        "fold-shapes",
        "fuse-layer-norm",
        "fuse-gelu",
        "fuse-attention",
        "flatten-attention-heads",
        "clean-up",
        "simplify-attention-mask",
        "infer-shapes",
        "fold-shapes",
        "clean-up",
    ]


def test_canonical_passes_are_exact_and_optional() -> None:
    assert {step.tolerance for step in CANONICAL} == {EXACT}
    assert not any(step.required for step in CANONICAL)


CPU = ["merge-qkv", "fold-residual-bias", "clean-up"]
HALF = ["convert-precision(dtype='float16')", "clean-up"]


@pytest.mark.parametrize(
    ("target", "precision", "specs"),
    [
        ("ort-cpu", "fp32", CPU),
        ("ort-cpu", "int8", ["lower-activations-uint8(weight_bits=8)"]),
        ("ort-cuda", "fp32", []),
        ("ort-cuda", "fp16", HALF),
        ("tensorrt", "fp32", []),
        ("tensorrt", "fp16", HALF),
        ("tensorrt", "int8", HALF),
        ("tensorrt", "bf16", ["convert-precision(dtype='bfloat16')", "clean-up"]),
        ("tensorrt-rtx", "fp16", HALF),
    ],
)
def test_lowerings_are_pinned(target: str, precision: str, specs: list[str]) -> None:
    assert [step.spec for step in lowering(target, precision)] == specs  # type: ignore[arg-type]


def test_activations_stay_int8_without_vnni() -> None:
    assert lowering("ort-cpu", "int8", uint8_activations=False) == ()


@pytest.mark.parametrize(("precision", "required"), [("fp16", True), ("bf16", True)])
def test_a_precision_that_was_asked_for_is_required(precision: str, required: bool) -> None:
    first = lowering("tensorrt", precision)[0]  # type: ignore[arg-type]
    assert first.required is required
