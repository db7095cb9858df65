"""``fuselage optimize`` on sound models from anywhere: optimised, or passed on as they are."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fuselage.compiler.checks import reference

from .outside_models import (
    GELU,
    WEIGHTS,
    Array,
    Optimize,
    X,
    answers,
    assert_same,
    functions_model,
    model_of,
    operators,
)

# --- optimised, with the same answers

CONTROL_FLOW = {
    "if": f"""g (float[n, 8] x, bool flag) => (float[n, 8] y) {{ {GELU}
        y = If(flag) <then_branch = t () => (float[n, 8] p) {{ p = MatMul(g, w) }},
                      else_branch = e () => (float[n, 8] q) {{ s = Add(g, b)  q = Relu(s) }}> }}""",
    "loop": f"""g (float[n, 8] x, int64 trips) => (float[n, 8] y, float[k, n, 8] z) {{ {GELU}
        yes = Constant<value = bool {{1}}>()
        y, z = Loop(trips, yes, x) <body = l (int64 i, bool c, float[n, 8] h)
            => (bool go, float[n, 8] next, float[n, 8] kept) {{
            go = Identity(c)  next = Add(h, g)  kept = Mul(next, half) }}> }}""",
    "scan": f"""g (float[n, 8] x) => (float[8] y, float[n, 8] z) {{ {GELU}
        y, z = Scan(b, g) <num_scan_inputs = 1, body = s (float[8] state, float[8] item)
            => (float[8] grown, float[8] seen) {{
            grown = Add(state, item)  seen = Mul(grown, half) }}> }}""",
    "nested": f"""g (float[n, 8] x, bool flag) => (float[n, 8] y) {{ {GELU}
        y = If(flag) <then_branch = t () => (float[n, 8] p) {{
                p = If(flag) <then_branch = u () => (float[n, 8] r) {{ r = MatMul(g, w) }},
                              else_branch = v () => (float[n, 8] s) {{ s = Neg(g) }}> }},
            else_branch = e () => (float[n, 8] q) {{ q = Add(g, b) }}> }}""",
}


@pytest.mark.parametrize("text", CONTROL_FLOW.values(), ids=CONTROL_FLOW)
def test_around_subgraphs_that_read_outer_values(text: str, optimize: Optimize, out: Path) -> None:
    model = model_of(text)
    code, err = optimize(model)
    assert (code, "Gelu" in operators(out)) == (0, True), err
    feeds: dict[str, Array] = {"x": X}
    if "trips" in text:
        feeds["trips"] = np.asarray(3)
    if "flag" in text:
        for flag in (True, False):
            assert_same(model, out, x=X, flag=np.asarray(flag))
    else:
        assert_same(model, out, **feeds)


def test_model_local_functions_are_inlined_and_rewritten(optimize: Optimize, out: Path) -> None:
    code, err = optimize(functions_model())
    assert (code, operators(out)) == (0, ["Add", "Gelu", "Softmax", "Softmax"]), err
    assert_same(functions_model(), out, x=X)


def test_functions_of_another_opset_stay_functions(optimize: Optimize, out: Path) -> None:
    model = functions_model()
    model.functions[1].opset_import[0].version = 13
    code, err = optimize(model)
    assert code == 0, err
    assert {f.name for f in onnx.load(out).functions} == {"gelu", "soft", "twice"}
    assert_same(model, out, x=X)


def listed_as_inputs() -> onnx.ModelProto:
    model = model_of(f"f (float[n, 8] x) => (float[n, 8] g) {{ {GELU} }}", opset=18)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        info = model.graph.input.add(name=tensor.name)
        info.type.tensor_type.elem_type = tensor.data_type
        info.type.tensor_type.shape.dim.extend([])
        info.type.tensor_type.shape.SetInParent()
    return model


def named(names: Callable[[int], str]) -> onnx.ModelProto:
    model = model_of(f"f (float[n, 8] x) => (float[n, 8] g) {{ {GELU} }}")
    for index, node in enumerate(model.graph.node):
        node.name = names(index)
    return model


def long_domain() -> onnx.ModelProto:
    model = model_of(f"f (float[n, 8] x) => (float[n, 8] g) {{ {GELU} }}")
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"
    return model


def with_dims(*dims: int) -> onnx.ModelProto:
    model = model_of(f"f (float[n, 8] x) => (float[n, 8] g) {{ {GELU} }}")
    for info in (*model.graph.input, *model.graph.output):
        for dim, size in zip(info.type.tensor_type.shape.dim, dims, strict=True):
            dim.dim_value = size
    return model


def with_metadata() -> onnx.ModelProto:
    model = model_of(f"f (float[n, 8] x) => (float[n, 8] g) {{ {GELU} }}")
    model.metadata_props.add(key="vocabulary", value="word " * 1_000_000)
    model.graph.node[0].doc_string = "traced from line 1\n" * 10_000
    return model


GELU_FORMS: dict[str, Callable[[], onnx.ModelProto]] = {
    "weights listed as inputs, IR 3": listed_as_inputs,
    "nodes without names": lambda: named(lambda _: ""),
    "nodes of one name": lambda: named(lambda _: "same"),
    "nodes named like values": lambda: named(lambda index: "dxeam"[index]),
    "nodes named like markup": lambda: named(lambda index: f"[/red]{index}"),
    "the long name of the domain": long_domain,
    "negative sizes": lambda: with_dims(-1, 8),
    "large metadata": with_metadata,
    "an unused input": lambda: model_of(
        f"f (float[n, 8] x, float[n] spare) => (float[n, 8] g) {{ {GELU} }}"
    ),
    "an unused weight": lambda: model_of(
        f"f (float[n, 8] x) => (float[n, 8] g) {{ {GELU} }}", unused=np.zeros(3000, np.float32)
    ),
}


@pytest.mark.parametrize("make", GELU_FORMS.values(), ids=GELU_FORMS)
def test_odd_but_sound_files_are_rewritten(
    make: Callable[[], onnx.ModelProto], optimize: Optimize, out: Path
) -> None:
    code, err = optimize(make())
    assert (code, operators(out)) == (0, ["Gelu"]), err
    sound = model_of(f"f (float[n, 8] x) => (float[n, 8] g) {{ {GELU} }}")
    feeds = {"x": X}
    wanted = answers(sound, feeds)
    if "spare" in {info.name for info in onnx.load(out).graph.input}:
        feeds["spare"] = X[:, 0]
    np.testing.assert_allclose(answers(out, feeds)[0], wanted[0], atol=1e-6)


def test_sparse_weights_become_dense(optimize: Optimize, out: Path) -> None:
    weight = np.zeros((8, 8), np.float32)
    weight[[0, 3, 7], [1, 3, 2]] = 1.5, -2, 0.25
    text = f"f (float[n, 8] x) => (float[n, 8] y) {{ {GELU}  y = MatMul(g, sparse) }}"
    dense = model_of(text, sparse=weight)
    for indices in (np.flatnonzero(weight), np.argwhere(weight)):
        model = model_of(text)
        entry = model.graph.sparse_initializer.add(dims=weight.shape)
        values = weight[weight != 0]
        entry.values.CopyFrom(onnx.numpy_helper.from_array(values, "sparse"))
        entry.indices.CopyFrom(onnx.numpy_helper.from_array(indices.astype(np.int64), "places"))
        code, err = optimize(model)
        assert (code, operators(out)) == (0, ["Gelu", "MatMul"]), err
        assert_same(dense, out, x=X)


# --- nothing to fuse: the answers stay


def half_weights(dtype: Any) -> dict[str, Array]:
    return {name: np.asarray(value).astype(dtype) for name, value in WEIGHTS.items()}


def plain(kind: str, dtype: Any) -> tuple[onnx.ModelProto, dict[str, Array]]:
    text = f"f ({kind}[n, 8] x) => ({kind}[n, 8] y) {{ h = MatMul(x, w)  y = Add(h, b) }}"
    return model_of(text, **half_weights(dtype)), {"x": X.astype(dtype)}


def quantized() -> tuple[onnx.ModelProto, dict[str, Array]]:
    text = """f (float[n, 8] x) => (float[n, 8] y) {
        q = QuantizeLinear(x, scale, zero)  d = DequantizeLinear(q, scale, zero)
        wd = DequantizeLinear<axis = 1>(codes, scales, zeros)
        m = MatMul(d, wd)  y = Add(m, b) }"""
    return model_of(text, scale=np.float32(0.05), zero=np.uint8(7), **_codes()), {"x": X}


def _codes() -> dict[str, Array]:
    return {
        "codes": (np.arange(64).reshape(8, 8) - 30).astype(np.int8),
        "scales": np.linspace(0.01, 0.02, 8, dtype=np.float32),
        "zeros": np.zeros(8, np.int8),
    }


def integer_operators() -> tuple[onnx.ModelProto, dict[str, Array]]:
    text = """f (uint8[n, 8] x) => (uint8[n, 8] y, float[n, 8] z) {
        y = QLinearMatMul(x, scale, zero, codes, scales, zeros, scale, zero)
        f = Cast<to = 1>(x)
        dq, ds, dz = DynamicQuantizeLinear(f)
        i = MatMulInteger(dq, codes, dz)  c = Cast<to = 1>(i)  z = Mul(c, ds) }"""
    model = model_of(text, scale=np.float32(0.05), zero=np.uint8(7), **_codes())
    return model, {"x": np.arange(24, dtype=np.uint8).reshape(3, 8)}


def contributed() -> tuple[onnx.ModelProto, dict[str, Array]]:
    text = """f (float[n, 8] x) => (float[n, 8] y) {
        m = com.microsoft.FusedMatMul<alpha = 0.5>(x, w)
        y = com.microsoft.BiasGelu(m, b) }"""
    return model_of(text), {"x": X}


def strings() -> tuple[onnx.ModelProto, dict[str, Array]]:
    text = """f (string[n] x) => (string[n] y, string[2] fixed) {
        y = StringConcat(x, suffix)  fixed = Identity(words) }"""
    model = model_of(text, suffix=np.asarray(["!"], np.object_))
    words = np.asarray(["ä", "b" * 2000], np.object_)
    model.graph.initializer.append(onnx.numpy_helper.from_array(words, "words"))
    return model, {"x": np.asarray(["one", "two", ""], np.object_)}


def sequences() -> tuple[onnx.ModelProto, dict[str, Array]]:
    text = """f (float[n, 8] x) => (float[n, 8] y, seq(float[n, 4]) parts) {
        parts = SplitToSequence<axis = 1>(x, four)
        c = ConcatFromSequence<axis = 1>(parts)
        o = Optional(c)  y = OptionalGetElement(o) }"""
    return model_of(text, four=np.int64(4)), {"x": X}


def four_bit() -> tuple[onnx.ModelProto, dict[str, Array]]:
    text = """f (float[n, 8] x) => (float[n, 8] y) {
        wd = DequantizeLinear<axis = 1>(packed, scales)  y = MatMul(x, wd) }"""
    model = model_of(text, opset=21, scales=_codes()["scales"])
    codes = (np.arange(64).reshape(8, 8) % 15 - 7).astype(ml_dtypes.int4)
    model.graph.initializer.append(ir.to_proto(ir.tensor(codes, name="packed")))
    return model, {"x": X}


def eight_bit_float() -> tuple[onnx.ModelProto, dict[str, Array]]:
    text = """f (float[n, 8] x) => (float[n, 8] y) {
        wd = Cast<to = 1>(small)  y = MatMul(x, wd) }"""
    model = model_of(text)
    small = np.linspace(-2, 2, 64).reshape(8, 8).astype(ml_dtypes.float8_e4m3fn)
    model.graph.initializer.append(ir.to_proto(ir.tensor(small, name="small")))
    return model, {"x": X}


KEPT: dict[str, Callable[[], tuple[onnx.ModelProto, dict[str, Array]]]] = {
    "float16": lambda: plain("float16", np.float16),
    "float64": lambda: plain("double", np.float64),
    "Q/DQ": quantized,
    "integer operators": integer_operators,
    "operators of ONNX Runtime": contributed,
    "strings": strings,
    "sequences and optionals": sequences,
    "int4": four_bit,
    "float8": eight_bit_float,
    "no inputs": lambda: (
        model_of("f () => (float[8, 8] y, float[8] z) { y = MatMul(w, w)  z = Neg(b) }"),
        {},
    ),
    "outputs that are inputs and weights": lambda: (
        model_of("f (float[n, 8] x) => (float[n, 8] y, float[n, 8] x, float[8] b) {"
                 " y = Add(x, b) }"),
        {"x": X},
    ),
    "a size of 0": lambda: (
        model_of("f (float[n, 0] x) => (float[n, 8] y) { y = MatMul(x, none) }",
                 none=np.zeros((0, 8), np.float32)),
        {"x": np.zeros((3, 0), np.float32)},
    ),
    "an old opset": lambda: (
        model_of("f (float[n, 8] x) => (float[n, 1] y) { m = ReduceSum<axes = [1]>(x)"
                 "  s = Squeeze<axes = [1]>(m)  y = Unsqueeze<axes = [1]>(s) }", opset=9),
        {"x": X},
    ),
    "classical machine learning": lambda: (
        model_of("f (float[n, 8] x) => (float[n, 8] y) { y = ai.onnx.ml.Scaler"
                 "<offset = [0.5], scale = [2.0]>(x) }",
                 header='<ir_version: 10, opset_import: ["" : 20, "ai.onnx.ml" : 3]>'),
        {"x": X},
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT)
def test_what_cannot_be_fused_answers_as_before(
    make: Callable[[], tuple[onnx.ModelProto, dict[str, Array]]], optimize: Optimize, out: Path
) -> None:
    model, feeds = make()
    code, err = optimize(model)
    assert code == 0, err
    assert_same(model, out, **feeds)


def test_bfloat16_goes_through_as_it_is(optimize: Optimize, out: Path) -> None:
    model, _ = plain("bfloat16", ml_dtypes.bfloat16)
    code, err = optimize(model)
    assert (code, operators(out)) == (0, ["Add", "MatMul"]), err
    weights = {tensor.name: ir.from_proto(tensor) for tensor in onnx.load(out).graph.initializer}
    assert weights["w"].dtype == ir.DataType.BFLOAT16
    wanted = WEIGHTS["w"].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(weights["w"].numpy().astype(np.float32), wanted)


def test_unknown_operators_stay_where_they_are(optimize: Optimize, out: Path) -> None:
    header = '<ir_version: 10, opset_import: ["" : 20, "acme.ops" : 3]>'
    text = f"f (float[n, 8] x) => (float[n, 8] y) {{ {GELU}  y = acme.ops.Swirl<turns = 2>(g) }}"
    code, err = optimize(model_of(text, header=header))
    assert (code, operators(out)) == (0, ["Gelu", "Swirl"]), err
    (swirl,) = (node for node in onnx.load(out).graph.node if node.op_type == "Swirl")
    assert (swirl.domain, swirl.attribute[0].i) == ("acme.ops", 2)


def divided_by_zero() -> onnx.ModelProto:
    """ONNX Runtime 1.31 dies of SIGFPE on it."""
    text = """f (float[n, 8] x) => (float[n, 4] y) {
        parts = SplitToSequence<axis = 1>(x, none)  y = SequenceAt(parts, none) }"""
    return model_of(text, none=np.int64(0))


def test_a_crash_in_native_code_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "in.onnx").write_bytes(divided_by_zero().SerializeToString())
    command = [sys.executable, "-m", "fuselage", "optimize", tmp_path / "in.onnx"]
    done = subprocess.run(
        [*command, tmp_path / "out.onnx"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert re.match(r"error: .*in\.onnx: native code \(onnx, .*\) died of SIGFPE", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_a_loop_without_end_is_not_compared(
    optimize: Optimize, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "_MOST_SECONDS", 0.5)
    text = f"""f (float[n, 8] x) => (float[n, 8] y) {{ {GELU}
        y = Loop(trips, yes, g) <body = l (int64 i, bool c, float[n, 8] h)
            => (bool go, float[n, 8] next) {{ go = Identity(c)  next = Tanh(h) }}> }}"""
    code, err = optimize(model_of(text, trips=np.int64(2**62), yes=np.bool_(True)))
    assert (code, operators(out)) == (0, ["Gelu", "Loop"]), err
    assert "it takes more than 0 s" in err
