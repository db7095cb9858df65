"""Packed projections are split on the last axis of the product, whatever took them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.attention.split_packed_projections import SplitPackedProjections
from fuselage.passes.constants import permutation_of
from fuselage.passes.normalize.infer_shapes import InferShapes

HEADS, SIZE, WIDTH = 2, 5, 30
SPLIT_HEADS = "Transpose<perm = [0, 2, 1, 3]>"

PARTS_FIRST = {
    "slices": """
        r = Reshape(p, parts_first)
        q5 = Slice(r, n0, n1, m3)
        q4 = Squeeze(q5, m3)
        k5 = Slice(r, n1, n2, m3)
        k4 = Squeeze(k5, m3)
        v5 = Slice(r, n2, n3, n2)
        v4 = Squeeze(v5, n2)
    """,
    "a split": """
        r = Reshape(p, parts_first)
        q5, k5, v5 = Split<axis = 2>(r, ones)
        q4 = Squeeze(q5, m3)
        k4 = Squeeze(k5, m3)
        v4 = Squeeze(v5, n2)
    """,
    "gathers": """
        r = Reshape(p, parts_first)
        q4 = Gather<axis = 2>(r, i0)
        k4 = Gather<axis = 2>(r, i1)
        v4 = Gather<axis = -3>(r, last)
    """,
}
MERGED = f"""
    q = {SPLIT_HEADS}(q4)
    k = {SPLIT_HEADS}(k4)
    v = {SPLIT_HEADS}(v4)
"""
TRANSPOSED = {
    "parts to the front": """
        r = Reshape(p, parts_first)
        t = Transpose<perm = [2, 0, 3, 1, 4]>(r)
        q = Gather(t, i0)
        k = Gather(t, i1)
        v5 = Slice(t, n2, n3, n0)
        v = Squeeze(v5, n0)
    """,
    "parts behind the heads": """
        r = Reshape(p, parts_first)
        t = Transpose<perm = [0, 3, 2, 1, 4]>(r)
        q = Gather<axis = 2>(t, i0)
        k = Gather<axis = 2>(t, i1)
        v = Gather<axis = 2>(t, i2)
    """,
}
INSIDE = {
    "heads, parts, size": "r = Reshape(p, heads_first)"
    + "".join(f"\n {name}4 = Gather<axis = 3>(r, i{i})" for i, name in enumerate("qkv"))
    + MERGED,
    "heads, size, parts": "r = Reshape(p, parts_last)"
    + "".join(f"\n {name}4 = Gather<axis = -1>(r, i{i})" for i, name in enumerate("qkv"))
    + MERGED,
    "thirds of a head": f"""
        r = Reshape(p, thirds)
        t = {SPLIT_HEADS}(r)
        q, k, v = Split<axis = -1, num_outputs = 3>(t)
    """,
    "sliced thirds": """
        r = Reshape(p, thirds)
        q4 = Slice(r, n0, size, n3, n1)
        k4 = Slice(r, size, twice, n3, n1)
        v4 = Slice(r, twice, end, n3, n1)
    """
    + MERGED,
}
PRODUCT = "m = MatMul(x, weight)\n p = Add(m, bias)\n"
OUTPUTS = ", ".join(f"float[b, {HEADS}, s, {SIZE}] {name}" for name in "qkv")


@pytest.fixture
def build(parse: Any, rng: np.random.Generator) -> Any:
    def make(
        body: str, *, product: str = PRODUCT, inputs: str = "", outputs: str = OUTPUTS,
        batch: str = "b",
        **changed: Any,
    ) -> ir.Model:  # fmt: skip
        constants = {
            "weight": rng.normal(0, 1, (4, WIDTH)).astype(np.float32),
            "bias": rng.normal(0, 1, WIDTH).astype(np.float32),
            "parts_first": np.array([0, 0, 3, HEADS, SIZE]),
            "heads_first": np.array([0, 0, HEADS, 3, SIZE]),
            "parts_last": np.array([0, 0, HEADS, SIZE, 3]),
            "thirds": np.array([0, 0, HEADS, 3 * SIZE]),
            "ones": np.ones(3, np.int64),
            "last": np.array(-1),
            "m3": np.array([-3]),
            "size": np.array([SIZE]),
            "twice": np.array([2 * SIZE]),
            "end": np.array([2**63 - 1]),
            **{f"n{i}": np.array([i]) for i in range(4)},
            **{f"i{i}": np.array(i) for i in range(3)},
        } | changed
        model: ir.Model = parse(
            f"packed (float[{batch}, s, 4] x{inputs}) => ({outputs}) {{ {product} {body} }}",
            **constants,
        )
        InferShapes()(model)
        return model

    return make


def feeds() -> tuple[dict[str, Any], ...]:
    random = np.random.default_rng(3)
    return tuple(
        {"x": random.normal(0, 1, (*shape, 4)).astype(np.float32)} for shape in ((3, 7), (1, 1))
    )


def check(model: ir.Model, apply: Any, same_numbers: Any) -> ir.Model:
    after, outcome = apply(SplitPackedProjections(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    operators = [node.op_type for node in after.graph]
    assert {name: operators.count(name) for name in ("Split", "Reshape", "Transpose")} == {
        "Split": 1,
        "Reshape": 3,
        "Transpose": 3,
    }
    assert not {"Slice", "Squeeze", "Gather"} & set(operators)
    (split,) = (node for node in after.graph if node.op_type == "Split")
    assert split.inputs[0] is not None
    assert split.inputs[0].name == "p"
    assert [str(value.shape) for value in split.outputs] == ["[b,s,10]"] * 3
    same_numbers(model, after, *feeds(), atol=1e-5, rtol=1e-5)
    _, second = apply(SplitPackedProjections(), after)
    assert not second.modified
    result: ir.Model = after
    return result


@pytest.mark.parametrize("name", PARTS_FIRST)
def test_parts_along_an_axis_of_their_own(
    build: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    after = check(build(PARTS_FIRST[name] + MERGED), apply, same_numbers)
    assert "weight" in after.graph.initializers


@pytest.mark.parametrize("name", TRANSPOSED)
def test_parts_behind_a_transposition(build: Any, apply: Any, same_numbers: Any, name: str) -> None:
    check(build(TRANSPOSED[name]), apply, same_numbers)


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("product", [PRODUCT, "p = MatMul(x, weight)\n"])
def test_parts_inside_of_heads_order_the_columns(
    build: Any, apply: Any, same_numbers: Any, name: str, product: str
) -> None:
    after = check(build(INSIDE[name], product=product), apply, same_numbers)
    (matmul,) = (node for node in after.graph if node.op_type == "MatMul")
    assert matmul.inputs[1] is not None
    assert isinstance(matmul.inputs[1].const_value, ir.LazyTensor)


def test_two_parts_are_split_too(build: Any, apply: Any, same_numbers: Any) -> None:
    outputs = ", ".join(f"float[b, 3, s, 5] {name}" for name in "kv")
    body = f"""r = Reshape(p, pair)
        k4 = Gather<axis = 2>(r, i0)
        v4 = Gather<axis = 2>(r, i1)
        k = {SPLIT_HEADS}(k4)
        v = {SPLIT_HEADS}(v4)"""
    model = build(body, outputs=outputs, pair=np.array([0, 0, 2, 3, 5]))
    after, outcome = apply(SplitPackedProjections(), model)
    assert outcome.rewrites == 1
    same_numbers(model, after, *feeds(), atol=1e-5, rtol=1e-5)


def test_a_shared_bias_is_copied(build: Any, apply: Any, same_numbers: Any) -> None:
    product = PRODUCT + "other = Add(m2, bias)\n"
    product = "m2 = MatMul(x, weight2)\n" + product
    model = build(
        INSIDE["thirds of a head"], product=product, outputs=OUTPUTS + ", float[b, s, 30] other",
        weight2=np.ones((4, WIDTH), np.float32),
    )  # fmt: skip
    check(model, apply, same_numbers)


INNER = "the parts are packed inside of [2, 3, 5], and "


@pytest.mark.parametrize(
    ("product", "outputs", "reason"),
    [
        (
            PRODUCT + "other = MatMul(x, weight)\n",
            ", float[b, s, 30] other",
            INNER + "input 1 of 'n_m' is the weight 'weight', which is shared",
        ),
        (PRODUCT + "other = Neg(p)\n", ", float[b, s, 30] other", INNER + "'p' is read elsewhere"),
        (PRODUCT + "other = Neg(m)\n", ", float[b, s, 30] other", INNER + "'m' is read elsewhere"),
        (
            "m = MatMul(x, fed)\n p = Add(m, bias)\n",
            "",
            INNER + "input 1 of 'n_m' is no constant of 30 columns",
        ),
        (
            PRODUCT.replace("p =", "o =") + "p = Neg(o)\n",
            "",
            INNER + "'p' is no product with a weight",
        ),
    ],
)
def test_columns_that_others_read_are_left(
    build: Any, apply: Any, product: str, outputs: str, reason: str
) -> None:
    model = build(
        INSIDE["heads, parts, size"],
        product=product,
        inputs=", float[4, 30] fed",
        outputs=OUTPUTS + outputs,
    )
    after, outcome = apply(SplitPackedProjections(), model)
    assert not outcome.modified
    assert [refusal.node for refusal in outcome.refusals] == ["n_r"]
    assert outcome.refusals[0].reason.startswith(reason)
    assert "Split" not in [node.op_type for node in after.graph]


def test_other_readers_of_the_unpacked_tensor_are_named(build: Any, apply: Any) -> None:
    body = PARTS_FIRST["gathers"] + MERGED + "other = Neg(r)"
    model = build(body, outputs=OUTPUTS + ", float[b, s, 3, 2, 5] other")
    _, outcome = apply(SplitPackedProjections(), model)
    assert [r.reason for r in outcome.refusals] == [
        "'r' is read by others than those who take single parts of it"
    ]


def test_rows_that_move_are_refused(build: Any, apply: Any) -> None:
    model = build(PARTS_FIRST["gathers"] + MERGED, parts_first=np.array([-1, 2, 3, HEADS, SIZE]))
    _, outcome = apply(SplitPackedProjections(), model)
    assert not outcome.modified
    assert outcome.refusals[0].reason.startswith("Reshape 'n_r' turns [b,s,30] into")


@pytest.mark.parametrize(
    ("body", "batch"),
    [
        (f"r = Reshape(p, split)\n q = {SPLIT_HEADS}(r)", "b"),  # heads
        ("r = Reshape(p, split)\n q = Slice(r, n0, n3, n3, n1)", "b"),  # a part of a head
        ("r = Reshape(p, split)\n q, k = Split<axis = -1>(r, parts)", "b"),  # two parts: a rotation
        ("r = Reshape(p, parts_first)\n q = Gather<axis = 0>(r, i0)", "3"),  # one row of the batch
        ("r = Reshape(p, parts_first)\n q = Neg(r)", "b"),
        ("r = Reshape(p, thirds)\n t = Transpose(r)\n q = Split<num_outputs = 3>(t)", "b"),
        # An axis of one goes, but another one than was sliced.
        ("r = Reshape(p, parts_first)\n q5 = Slice(r, n0, n1, n2)\n q = Squeeze(q5, n0)", "1"),
        (
            "r = Reshape(p, parts_first)\n q5, k = Split<axis = 2>(r, uneven)\nq = Squeeze(q5, n2)",
            "b",
        ),
    ],
)
def test_other_reshapes_are_not_candidates(build: Any, apply: Any, body: str, batch: str) -> None:
    model = build(
        body,
        outputs="float q",
        split=np.array([0, 0, 3, 10]),
        parts=np.array([5, 5]),
        uneven=np.array([1, 2]),
        batch=batch,
    )
    _, outcome = apply(SplitPackedProjections(), model)
    assert (outcome.modified, outcome.refusals) == (False, ())


def test_a_transposition_of_unknown_rank_is_left_alone(build: Any) -> None:
    model = build("r = Reshape(p, thirds)\n t = Transpose(r)\n q = Neg(t)", outputs="float q")
    (transpose,) = (node for node in model.graph if node.op_type == "Transpose")
    assert permutation_of(transpose) == (3, 2, 1, 0)
    source = transpose.inputs[0]
    assert source is not None
    source.shape = None
    assert permutation_of(transpose) == ()
    outcome = SplitPackedProjections()(model)
    assert (outcome.modified, outcome.refusals) == (False, ())
