from __future__ import annotations

import onnx_ir as ir
import pytest

from fuselage.compiler.checks.check_pass import NumberCheck
from fuselage.errors import PassError
from fuselage.graph.model import Graph
from fuselage.passes.base import EXACT
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import CANONICAL, lowering


def test_the_order_of_the_canonical_passes_is_pinned() -> None:
    assert [step.spec for step in CANONICAL] == [
        "clean-up",
        "raise-opset(opset=23)",
        "fold-constants(growth_bytes=65536)",
        "infer-shapes",
        "fold-shapes",
        "fold-constants(growth_bytes=65536)",
        "expand-einsum",
        "unflatten-gemm",
        "drop-no-ops",
        "fuse-layer-norm",
        "fuse-rms-norm",
        "hoist-norms",
        "fuse-gelu",
        "fuse-rotary-embedding",
        "merge-slices",
        "split-packed-projections",
        "replace-blends",
        "split-batched-heads",
        "fuse-attention",
        "group-key-value-heads",
        "fuse-key-value-cache",
        "flatten-attention-heads",
        "expand-rotary-caches",
        "clean-up",
        "simplify-attention-mask",
        "infer-shapes",
        "fold-shapes",
        "clean-up",
        "restore-outputs",
    ]


def test_canonical_passes_are_exact_and_optional() -> None:
    assert {step.tolerance for step in CANONICAL} == {EXACT}
    assert not any(step.required for step in CANONICAL)


CPU = ["fold-residual-bias", "split-packed-weights", "fold-attention-bias", "clean-up"]
HALF = ["convert-precision(dtype='float16')", "clean-up"]
STATIC = ["lower-kv-cache(length=1024)", "clean-up"]
RTX = [*STATIC, HALF[0], "lower-cache-dtype", "clean-up"]


@pytest.mark.parametrize(
    ("target", "precision", "specs"),
    [
        ("ort-cpu", "fp32", CPU),
        (
            "ort-cpu",
            "int8",
            [
                "gather-codes",
                "lower-activations-uint8(weight_bits=8)",
                "fold-activation-shifts",
                "fuse-integer-matmul",
            ],
        ),
        ("ort-cpu", "int8-weight-only", ["gather-codes", "fuse-weight-only-matmul", "clean-up"]),
        ("ort-cuda", "fp32", []),
        ("ort-cuda", "fp16", HALF),
        ("tensorrt", "fp32", STATIC),
        ("tensorrt", "fp16", RTX),
        ("tensorrt", "int8", RTX),
        ("tensorrt", "int8-weight-only", RTX),
        ("tensorrt-rtx", "fp8", RTX),
        ("tensorrt", "bf16", [spec.replace("float16", "bfloat16") for spec in RTX]),
        ("tensorrt-rtx", "fp16", RTX),
    ],
)
def test_lowerings_are_pinned(target: str, precision: str, specs: list[str]) -> None:
    assert [step.spec for step in lowering(target, precision)] == specs  # type: ignore[arg-type]


def test_activations_stay_int8_without_vnni() -> None:
    steps = lowering("ort-cpu", "int8", uint8_activations=False)
    assert [step.spec for step in steps] == ["gather-codes"]


@pytest.mark.parametrize(("precision", "required"), [("fp16", True), ("bf16", True)])
def test_a_precision_that_was_asked_for_is_required(precision: str, required: bool) -> None:
    first = lowering("tensorrt", precision)[0]  # type: ignore[arg-type]
    assert first.required is required


def test_functions_of_an_older_opset_are_inlined_and_initializers_may_be_inputs() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 20, "my": 1]>
        g (float[batch, 2] x, float[2, 2] W) => (float[batch, 2] y)
        <float[2, 2] W = {1, 2, 3, 4}> { h = my.F(x)  y = MatMul(h, W) }
        <domain: "my", opset_import: ["": 20]> F (a) => (b) { b = Identity(a) }"""
    )
    graph = Graph(model)
    assert [spec.name for spec in graph.inputs] == ["x"]
    done = PassPipeline(CANONICAL, NumberCheck(graph)).run(graph)
    assert [record.rolled_back for record in done.history if record.rolled_back] == []
    assert done.op_counts == {"MatMul": 1}
    assert done.opset == 23


def test_an_unknown_target_has_no_lowering() -> None:
    with pytest.raises(PassError, match="target 'npu': there is no lowering for it"):
        lowering("npu", "fp16")
