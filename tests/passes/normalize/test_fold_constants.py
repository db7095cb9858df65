"""What depends on no input is computed once, within limits."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.graph.model import Graph
from fuselage.passes.normalize import transposed
from fuselage.passes.normalize.fold_constants import FoldConstants


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_a_chain_folds_in_one_run(parse: Any, apply: Any, same_numbers: Any, rng: Any) -> None:
    model = parse(
        """chain (float[b, 3] x) => (float[b, 4] y)
        { t = Transpose<perm = [1, 0]>(w)
          s = Mul(t, two)
          n = Neg(s)
          y = MatMul(x, n) }""",
        w=rng.normal(0, 1, (4, 3)).astype(np.float32),
        two=np.float32(2),
    )
    after, outcome = apply(FoldConstants(), model)
    assert outcome.rewrites == 3
    assert kinds(after) == ["MatMul"]
    folded = after.graph[0].inputs[1]
    w = model.graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(folded.const_value.numpy(), -2 * w.T)
    assert folded.dtype == ir.DataType.FLOAT
    same_numbers(model, after, {"x": np.ones((2, 3), np.float32)}, atol=1e-6, rtol=1e-6)
    _, second = apply(FoldConstants(), after)
    assert not second.modified


def test_equal_names_do_not_clash(parse: Any, apply: Any) -> None:
    model = parse(
        """two (float[b] x) => (float[b] y)
        { a = Neg(w)
          b2 = Neg(v)
          s = Mul(x, a)
          y = Mul(s, b2) }""",
        w=np.float32(2),
        v=np.float32(3),
    )
    model.graph.initializers["w"].name = "a.folded"
    after, outcome = apply(FoldConstants(), model)
    assert outcome.rewrites == 2
    values = [node.inputs[1].const_value.numpy() for node in after.graph]
    assert values == [-2, -3]


@pytest.mark.parametrize(
    "body",
    [
        "wq = QuantizeLinear(w, scale, zero)\n w2 = DequantizeLinear(wq, scale, zero)",
        "w2 = DequantizeLinear(stored, scale, zero)",
        "w2 = RandomNormalLike(w)",
    ],
)
def test_quantisation_and_noise_are_never_folded(parse: Any, apply: Any, body: str) -> None:
    model = parse(
        f"keep (float[b, 4] x) => (float[b, 4] y) {{ {body}\n y = MatMul(x, w2) }}",
        w=np.eye(4, dtype=np.float32),
        stored=np.eye(4, dtype=np.int8),
        scale=np.float32(0.1),
        zero=np.int8(0),
    )
    before = kinds(model)
    after, outcome = apply(FoldConstants(), model)
    assert not outcome.modified
    assert kinds(after) == before


@pytest.mark.parametrize(("limit", "folds"), [(1024, True), (1023, False)])
def test_results_may_grow_up_to_the_limit(parse: Any, apply: Any, limit: int, folds: bool) -> None:
    model = parse(
        "grow (float[b, 256] x) => (float[b, 256] y) { w2 = Expand(w, size)\n y = Mul(x, w2) }",
        w=np.ones(1, np.float32),
        size=np.array([256]),
    )
    after, outcome = apply(FoldConstants(growth_bytes=limit), model)
    assert outcome.modified is folds
    assert ("Expand" in kinds(after)) is not folds


def test_results_no_larger_than_their_inputs_always_fold(parse: Any, apply: Any) -> None:
    model = parse(
        "same (float[b, 256] x) => (float[b, 256] y) { w2 = Neg(w)\n y = Mul(x, w2) }",
        w=np.ones(256, np.float32),
    )
    assert apply(FoldConstants(growth_bytes=1), model)[1].rewrites == 1


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("y2 = com.microsoft.BiasGelu(w, w)", "a foreign domain"),
        ("y2, rest = Split<num_outputs = 2>(w)", "several outputs"),
        ("s = SequenceConstruct(w, w)\n y2 = ConcatFromSequence<axis = 0>(s)", "a sequence"),
    ],
)
def test_what_is_no_tensor_of_the_standard_stays(parse: Any, body: str, why: str) -> None:
    model = parse(
        f"stay (float[b] x) => (float[b] y) {{ {body}\n y = Mul(x, y2) }}",
        w=np.ones(4, np.float32),
    )
    assert not FoldConstants()(model).modified, why


def test_a_graph_output_stays_a_node(parse: Any, apply: Any) -> None:
    model = parse(
        "out (float[b] x) => (float[b] y, float[1] z) { y = Neg(x)\n z = Neg(w) }",
        w=np.ones(1, np.float32),
    )
    after, outcome = apply(FoldConstants(), model)
    assert not outcome.modified
    assert kinds(after) == ["Neg", "Neg"]


def test_absent_inputs_and_repeated_inputs(parse: Any, apply: Any) -> None:
    model = parse(
        """odd (float[b] x) => (float[b] y)
        { c = Clip(w, , high)
          d = Mul(c, c)
          y = Mul(x, d) }""",
        w=np.array([-5.0, 1, 9], np.float32),
        high=np.float32(2),
    )
    after, outcome = apply(FoldConstants(), model)
    assert outcome.rewrites == 2
    assert after.graph[0].inputs[1].const_value.numpy().tolist() == [25, 1, 4]


def test_inputs_are_not_constants(parse: Any, apply: Any) -> None:
    model = parse("dyn (float[b] x) => (float[b] y) { y = Neg(x) }")
    assert not apply(FoldConstants(), model)[1].modified


def test_the_limit_is_part_of_the_spec() -> None:
    assert FoldConstants(growth_bytes=7).spec == "fold-constants(growth_bytes=7)"


def test_a_folded_scalar_stays_a_scalar(parse: Any) -> None:
    model = parse("f (float[n] x) => (float y) { s = Mul(a, a)  y = Sqrt(s) }", a=np.float32(3))
    FoldConstants()(model)
    assert model.graph[0].inputs[0].const_value.shape == ()


@pytest.mark.parametrize(("order", "shape"), [("", (520, 700)), ("[1, 2, 0]", (8, 260, 300))])
@pytest.mark.parametrize("blocks", [1, 7])
def test_a_large_weight_is_transposed_when_it_is_read(
    parse: Any, apply: Any, rng: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    order: str, shape: tuple[int, ...], blocks: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(transposed, "_BLOCK_BYTES", 4 * math.prod(shape) // blocks)
    weight = rng.normal(0, 1, shape).astype(np.float32)
    model = parse(
        f"lazy (float x) => (float y) {{ t = Transpose{order and f'<perm = {order}>'}(w)\n"
        "y = Mul(x, t) }",
        w=weight,
    )
    (tmp_path / "weights").write_bytes(b"head" + weight.tobytes())
    model.graph.initializers["w"].const_value = ir.ExternalTensor(
        "weights", 4, weight.nbytes, ir.DataType.FLOAT,
        shape=ir.Shape(shape), name="w", base_dir=str(tmp_path),
    )  # fmt: skip
    before = model.graph.initializers["w"].const_value
    tracemalloc.start()
    after, outcome = apply(FoldConstants(), model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < weight.nbytes / 4
    assert before.raw is None  # the file is not mapped yet
    assert (outcome.rewrites, kinds(after)) == (1, ["Mul"])
    folded = after.graph[0].inputs[1]
    wanted = weight.transpose([1, 2, 0] if order else None)
    assert (folded.dtype, tuple(folded.shape)) == (ir.DataType.FLOAT, wanted.shape)
    np.testing.assert_array_equal(folded.const_value.numpy(), wanted)
    assert before.raw is None
    with (tmp_path / "written").open("wb") as file:
        folded.const_value.tofile(file)
    assert (tmp_path / "written").read_bytes() == wanted.tobytes()
    Graph(after).save(tmp_path / "after.onnx")
    again = Graph.load(tmp_path / "after.onnx").model.graph.initializers
    np.testing.assert_array_equal(again["t.folded"].const_value.numpy(), wanted)
