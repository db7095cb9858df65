"""``fuselage optimize`` on models from anywhere: optimised, passed on, or refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from fuselage.compiler import reference
from fuselage.compiler.cli import run

Array = NDArray[Any]
Optimize = Callable[..., tuple[int, str]]
MOST = np.finfo(np.float32).max

GELU = "d = Div(x, root)  e = Erf(d)  a = Add(e, one)  m = Mul(x, a)  g = Mul(m, half)"
WEIGHTS = {
    "root": np.float32(2**0.5),
    "one": np.float32(1),
    "half": np.float32(0.5),
    "w": np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8),
    "b": np.linspace(0, 1, 8, dtype=np.float32),
}


def model_of(
    text: str, *, opset: int = 20, header: str = "", **constants: Array | np.generic
) -> onnx.ModelProto:
    """ONNX text; the constants it reads become initializers."""
    header = header or f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(f"{header}\n{text}")
    for name, value in (WEIGHTS | constants).items():
        if f" {name}" in text or f"({name}" in text:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


@pytest.fixture
def optimize(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Optimize:
    """Optimise a model or a file; (exit code, stderr). Checks what holds for every outcome."""
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "out").mkdir()

    def call(model: onnx.ModelProto | bytes | Path, *options: str) -> tuple[int, str]:
        source, target = tmp_path / "in.onnx", tmp_path / "out" / "out.onnx"
        if isinstance(model, Path):
            source = model
        else:
            source.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        capfd.readouterr()
        code = run(["optimize", str(source), str(target), "--threads", "1", *options])
        err = capfd.readouterr().err
        if code:
            assert code == 1
            assert err.startswith("error: ")
            assert len(err.splitlines()) == 1, err
            assert list(target.parent.iterdir()) == []
        else:
            onnx.checker.check_model(str(target))
            assert all(file.name.startswith("out.") for file in target.parent.iterdir())
        return code, err

    return call


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "out.onnx"


def answers(model: onnx.ModelProto | Path, feeds: dict[str, Array]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(data, options, ["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def assert_same(model: onnx.ModelProto, out: Path, **feeds: Array) -> None:
    for wanted, got in zip(answers(model, feeds), answers(out, feeds), strict=True):
        if isinstance(wanted, list):
            wanted, got = np.concatenate(wanted), np.concatenate(got)
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(got, wanted)


def operators(path: Path) -> list[str]:
    return sorted(node.op_type for node in onnx.load(path).graph.node)


X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(3, 8)


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


FUNCTIONS = """<ir_version: 10, opset_import: ["" : 20, "own" : 1]>
f (float[n, 8] x) => (float[n, 8] y) {
    g = own.gelu(x, root)
    h = own.soft <axis = 0> (g)
    y = own.twice(h)
}
<domain: "own", opset_import: ["" : 20]>
gelu (x, root) => (g) {
    one = Constant<value = float {1.0}>()  half = Constant<value = float {0.5}>()
    d = Div(x, root)  e = Erf(d)  a = Add(e, one)  m = Mul(x, a)  g = Mul(m, half)
}
<domain: "own", opset_import: ["" : 20]>
soft <axis> (x) => (y) { y = Softmax<axis: int = @axis>(x) }
<domain: "own", opset_import: ["" : 20, "own" : 1]>
twice (x) => (y) { s = own.soft<axis = 1>(x)  y = Add(s, x) }"""


def functions_model() -> onnx.ModelProto:
    model = onnx.parser.parse_model(FUNCTIONS)
    model.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS["root"], "root"))
    return model


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


# --- refused, in one line


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = model_of(f"f (float[n, 8] x) => (float[n, 8] y) {{ {GELU}  y = MatMul(g, w) }}")
    change(model)
    return model


def recursive() -> onnx.ModelProto:
    model = functions_model()
    model.functions[1].node[0].op_type, model.functions[1].node[0].domain = "twice", "own"
    del model.functions[1].node[0].attribute[:]
    return model


def overfed() -> onnx.ModelProto:
    model = functions_model()
    model.graph.node[1].input.append("x")
    return model


def external(place: str, **more: str) -> onnx.ModelProto:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "w")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": place, **more}.items():
            tensor.external_data.add(key=key, value=value)

    return changed(change)


def as_tensor(name: str, **fields: Any) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        for field, value in fields.items():
            if isinstance(value, list):
                getattr(tensor, field)[:] = value
            else:
                setattr(tensor, field, value)

    return change


def without_rank(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def cyclic(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "g"


def sparse(*, places: list[int], dims: list[int]) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        entry = model.graph.sparse_initializer.add(dims=dims)
        values = np.ones(2, np.float32)
        entry.values.CopyFrom(onnx.numpy_helper.from_array(values, "s"))
        entry.indices.CopyFrom(onnx.numpy_helper.from_array(np.asarray(places), "at"))

    return change


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a cycle": (lambda: changed(cyclic), "'d' \\(Div\\) reads 'g', which no input"),
    "a missing weight": (
        lambda: changed(lambda m: m.graph.initializer.pop()), "reads 'w', which no input"),
    "a value defined twice": (
        lambda: changed(lambda m: m.graph.node.append(m.graph.node[0])), "'d', which is defined"),
    "two weights of one name": (
        lambda: changed(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
        "expected initializers with names of their own, got two of the name 'root'"),
    "a weight without a name": (
        lambda: changed(lambda m: m.graph.initializer.add(data_type=1, float_data=[1.0])),
        "got one without a name"),
    "an output of nothing": (
        lambda: changed(lambda m: setattr(m.graph.output[0], "name", "lost")),
        "no node, input or initializer gives the output 'lost'"),
    "an endless name": (
        lambda: changed(lambda m: setattr(m.graph.output[0], "name", "x" * 10**6)),
        "gives the output 'x{120}...'; the graph"),
    "an opset to come": (
        lambda: changed(lambda m: setattr(m.opset_import[0], "version", 99)),
        "imports opset 99 of ai.onnx, the installed onnx .* knows 1 to"),
    "an IR version to come": (
        lambda: changed(lambda m: setattr(m, "ir_version", 99)), "checker says: .*ir_version 99"),
    "no opset": (
        lambda: changed(lambda m: m.ClearField("opset_import")), "imports no opset, so its"),
    "two opsets": (
        lambda: changed(lambda m: m.opset_import.add(domain="ai.onnx", version=9)),
        "imports opset 20 and opset 9 of domain 'ai.onnx'; expected one version"),
    "an unknown operator": (
        lambda: changed(lambda m: setattr(m.graph.node[0], "op_type", "Swirl")),
        "checker says: No Op registered for Swirl"),
    "an unknown rank": (lambda: changed(without_rank), "Field 'shape' of 'type' is required"),
    "a recursive function": (recursive, "function '(soft|twice)' calls itself"),
    "a call with too much": (overfed, "'h' \\(soft\\) calls a function of 1 inputs and 1 outputs"),
    "an attribute from nowhere": (
        lambda: changed(lambda m: m.graph.node[0].attribute.add(
            name="axis", type=2, ref_attr_name="axis")), "takes its attribute 'axis' from 'axis'"),
    "too few bytes": (
        lambda: changed(as_tensor("w", raw_data=b"1234")), "'w' \\[8, 8\\] needs 256 .* holds 4"),
    "a negative size": (
        lambda: changed(as_tensor("w", dims=[-8, 8])), "'w' has data type 1 and shape \\[-8, 8\\]"),
    "an endless size": (
        lambda: changed(as_tensor("w", dims=[2**62, 2**62])), "'w' .* needs 8[0-9,]+ bytes"),
    "an unknown dtype": (
        lambda: changed(as_tensor("w", data_type=77)), "'w' has data type 77 .* expected a type"),
    "an endless sparse weight": (
        lambda: changed(sparse(places=[0, 1], dims=[2**40])), "'s' .* cannot be made dense"),
    "a sparse weight outside itself": (
        lambda: changed(sparse(places=[0, 9], dims=[4])), "'s' \\[4\\] cannot be made dense"),
    "weights that are missing": (lambda: external("none.bin"), "bytes of none.bin, which is miss"),
    "weights elsewhere": (lambda: external("/etc/hostname"), "'/etc/hostname', outside the folder"),
    "weights above": (lambda: external("../w.bin"), "'../w.bin', outside the folder"),
    "weights in a folder": (lambda: external("."), "which is missing"),
    "weights too short": (lambda: external("short.bin"), "of short.bin, which holds 100; the"),
    "weights before their file": (
        lambda: external("short.bin", offset="-8"), "lies at '-8' of its file"),
    "weights after their file": (
        lambda: external("short.bin", offset="9" * 30), "of short.bin, which holds 100"),
    "weights of two names": (lambda: external("twin.bin"), "'twin.bin', which has other"),
    "weights behind a link": (lambda: external("link.bin"), "in 'link.bin', a link out of the"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_broken_models_are_refused_by_every_verb(
    make: Callable[[], onnx.ModelProto],
    reason: str,
    optimize: Optimize,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "short.bin").write_bytes(bytes(100))
    (tmp_path.parent / f"{tmp_path.name}.secret").write_bytes(bytes(1000))
    (tmp_path / "twin.bin").hardlink_to(tmp_path.parent / f"{tmp_path.name}.secret")
    (tmp_path / "link.bin").symlink_to(tmp_path.parent / f"{tmp_path.name}.secret")
    code, err = optimize(make())
    assert (code, len(err) < 1000) == (1, True)
    assert re.search(reason, err), err
    for verb in ("explain", "inspect"):
        assert run([verb, str(tmp_path / "in.onnx")]) == 1
        assert capfd.readouterr().err == err


FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "zip": (b"PK\x03\x04" + bytes(60), "a zip archive"),
    "json": (json.dumps({"graph": {}}).encode(), "JSON"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "html": (b"<!DOCTYPE html><html></html>", "HTML or XML"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file"),
    "noise": (bytes(range(256)), "not a readable ONNX model"),
}


@pytest.mark.parametrize(("content", "kind"), FOREIGN.values(), ids=FOREIGN)
def test_other_files_are_named(content: bytes, kind: str, optimize: Optimize) -> None:
    code, err = optimize(content)
    assert (code, kind in err) == (1, True), err


def test_a_renamed_archive_is_named(optimize: Optimize, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.onnx", "w") as archive:
        archive.writestr("model.onnx", b"data")
    code, err = optimize(tmp_path / "model.onnx")
    assert (code, "a zip archive" in err) == (1, True)


def test_every_truncation_is_refused_or_still_a_model(optimize: Optimize) -> None:
    content = changed(lambda _: None).SerializeToString()
    codes = [optimize(content[:length])[0] for length in range(0, len(content), 61)]
    assert set(codes) == {1}


def test_linked_caches_are_read_where_both_files_lie(
    optimize: Optimize, out: Path, tmp_path: Path
) -> None:
    """As the hub's cache has it: links in a snapshot, both files among the blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    (blobs / "1").write_bytes(external("w.bin").SerializeToString())
    (blobs / "2").write_bytes(WEIGHTS["w"].tobytes())
    for link, blob in (("model.onnx", "1"), ("w.bin", "2")):
        os.symlink(f"../blobs/{blob}", snapshot / link)
    code, err = optimize(snapshot / "model.onnx")
    assert code == 0, err
    assert_same(changed(lambda _: None), out, x=X)


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
    assert re.match(r"error: .*in\.onnx: onnx or ONNX Runtime died of SIGFPE on it", done.stderr)
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
