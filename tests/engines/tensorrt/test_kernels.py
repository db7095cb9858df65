"""Reading the kernel list: lines as tensorrt_rtx 1.7.1 writes them."""

from __future__ import annotations

from fuselage.engines.tensorrt.kernels import read_listing


def operand(name: str, dims: str, dtype: str) -> str:
    return (
        f"{{ Name: {name}, Dimensions: [{dims}], Strides: [1,1], StrideOrder: [1,0], "
        f"Datatype: {dtype}, Format: (Linear) Row major linear format }}"
    )


def line(
    name: str, kind: str, inputs: list[str], constants: list[str], outputs: list[str], meta: str
) -> str:
    def joined(operands: list[str]) -> str:
        return f"[ {', '.join(operands)}]" if operands else "[]"

    return (
        f"Name: {name}, LayerType: {kind}, Inputs: {joined(inputs)}, "
        f"Constants: {joined(constants)}, Outputs: {joined(outputs)}, "
        f"TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: {meta}"
    )


SHAPES = line("__mye22381_0_myl0_0", "shape_call", [], [], [], "")
ATTENTION = line(
    "_gemm_mha_v2_myl0_7",
    "kgen",
    [
        operand("q", "-1,-1,32", "Half"),
        operand("k", "-1,32,-1", "Half"),
        operand("m", "-1,1,-1,-1", "Half"),
        operand("v", "-1,-1,32", "Half"),
    ],
    [],
    [operand("o", "-1,-1,32", "Half")],
    "[ONNX Layer: node_scaled_dot_product_attention]",
)
INT8_GEMM = line(
    "node_MatMul_84_myl0_3",
    "gemm",
    [operand("x", "-1,384", "Int8")],
    [
        operand("w", "384,1152", "Int8"),
        operand("alpha", "1", "Float"),
        operand("beta", "1", "Float"),
    ],
    [operand("y", "-1,1152", "Half")],
    "[ONNX Layer: node_MatMul_99]\x1f[ONNX Layer: node_MatMul_91]\x1f[ONNX Layer: blocks[3]/fc]",
)
SCORES = line(
    "bmm",
    "gemm",
    [operand("q", "-1,-1,32", "Float"), operand("k", "-1,32,-1", "Float")],
    [operand("alpha", "1", "Float")],
    [operand("s", "-1,-1,-1", "Float")],
    "",
)
GELU = line(
    "__myl_FcAddDivCastErfCastAddMulMul_myl0_11",
    "runtime_fusion",
    [operand("x", "-1,384", "Half")],
    [operand("w", "384,1536", "Half"), operand("b", "1,1536", "Half")],
    [operand("y", "-1,1536", "Half")],
    "[ONNX Layer: node_gelu]",
)


def test_records_and_counts() -> None:
    listing = read_listing(
        [
            "Total Activation Memory: 234881024 bytes",
            "Total Weights Memory: 45135232 bytes",
            f"Layers:\n{SHAPES}\n{ATTENTION}\n{INT8_GEMM}\n{SCORES}\n{GELU}\n\nI/O Tensors:",
            " Name: input_ids, IOMode: Input, DataType: Int64, Dimensions: [-1,-1]",
        ]
    )
    assert listing.activation_bytes == 234881024
    assert listing.weight_bytes == 45135232
    assert listing.summary() == {
        "total": 5,
        "fused_attention": 1,
        "gemm": 2,
        "int8_gemm": 1,
        "runtime_fusion": 1,
        "gemm_dtypes": {"Int8|Int8->Half": 1, "Float,Float->Float": 1},
        "kinds": {"gemm": 2, "shape_call": 1, "kgen": 1, "runtime_fusion": 1},
    }
    _, attention, gemm, _, gelu = listing.kernels
    assert attention.is_fused_attention
    assert attention.dtypes == "Half,Half,Half,Half->Half"
    assert gemm.facts() == {
        "name": "node_MatMul_84_myl0_3",
        "kind": "gemm",
        "dtypes": "Int8|Int8->Half",
        "nodes": ["blocks[3]/fc", "node_MatMul_91", "node_MatMul_99"],
        "profile": 0,
    }
    assert gelu.constants == ("Half", "Half")
    assert gelu.nodes == ("node_gelu",)


def test_int8_counts_only_when_both_factors_are_int8() -> None:
    mixed = line(
        "half",
        "gemm",
        [operand("x", "8,64", "Half")],
        [operand("w", "64,64", "Int8")],
        [operand("y", "8,64", "Half")],
        "",
    )
    both = line(
        "bmm",
        "gemm",
        [operand("x", "8,64", "Int8"), operand("y", "64,8", "Int8")],
        [],
        [operand("z", "8,8", "Half")],
        "",
    )
    assert read_listing([mixed]).summary()["int8_gemm"] == 0
    assert read_listing([both]).summary()["int8_gemm"] == 1


def test_a_log_without_a_listing_gives_nothing() -> None:
    listing = read_listing(["Detected 3 inputs", "Graph optimization time: 0.1 seconds."])
    assert listing.kernels == ()
    assert listing.activation_bytes is None
    assert listing.weight_bytes is None


def test_kernels_are_told_apart_by_profile() -> None:
    """Not every kernel of a profile names it, but one of its module does."""
    lines = [
        line(name, "kgen", [operand(tensor, "-1", "Half")], [], [], "")
        for name, tensor in (
            ("_gemm_mha_v2_myl1_4", "query"),
            ("__myl_Cast_myl1_5", "x"),
            ("__myl_Cast_myl3_0", "x"),
            ("_gemv_mha_v1_myl3_1", "present_key_0 [profile 1]"),
            ("copy", "y [profile 1]"),
        )
    ]
    listing = read_listing(lines)
    assert [kernel.profile for kernel in listing.kernels] == [0, 0, 1, 1, 1]
    assert [kernel.is_fused_attention for kernel in listing.kernels] == [True, *[False] * 2, True,
                                                                         False]  # fmt: skip
    for profile, total in ((0, 2), (1, 3), (2, 0)):
        summary = listing.of_profile(profile).summary()
        assert (summary["total"], summary["fused_attention"]) == (total, int(profile < 2))
