"""Einsum becomes transpositions and one MatMul."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.attention.fuse_attention import FuseAttention
from fuselage.passes.normalize.expand_einsum import ExpandEinsum
from fuselage.passes.normalize.infer_shapes import InferShapes

SIZES = {"h": 6, "n": 3, "d": 4, "e": 5}
"""Labels of static axes; all others are dynamic."""

PRODUCTS = {
    "ibh,hnd->ibnd": ["Reshape", "MatMul", "Reshape"],
    "ibnd,hnd->ibh": ["Transpose", "Reshape", "Reshape", "MatMul"],
    "ibnd,jbnd->bnij": ["Transpose", "Transpose", "MatMul"],
    "bnij,jbnd->ibnd": ["Transpose", "MatMul", "Transpose"],
    "bhid,bhjd->bhij": ["Transpose", "MatMul"],
    "bhid,bhdj->bhij": ["MatMul"],
    "bsh,he->bse": ["MatMul"],
    "bsh,eh->bse": ["Transpose", "MatMul"],
    "bsh,hnd->bnsd": ["Reshape", "MatMul", "Reshape", "Transpose"],
    "bnd,bne->bde": ["Transpose", "MatMul"],
    "bsnd,bnde->bse": ["Reshape", "Reshape", "MatMul"],
    "bind,bndj->bij": ["Reshape", "Reshape", "MatMul"],
    "hnd,he->nde": ["Transpose", "MatMul"],
}


def build(parse: Any, equation: str) -> ir.Model:
    left, out = equation.split("->")
    shapes = [
        ", ".join(str(SIZES.get(label, label)) for label in t) for t in (*left.split(","), out)
    ]
    *inputs, result = shapes
    names = "xyz"[: len(inputs)]
    typed = ", ".join(f"float[{dims}] {name}" for dims, name in zip(inputs, names, strict=True))
    model = parse(
        f"""sums ({typed}) => (float[{result}] out)
            {{ out = Einsum<equation = "{equation}">({", ".join(names)}) }}"""
    )
    InferShapes()(model)
    return model  # type: ignore[no-any-return]


def feeds(equation: str, **sizes: int) -> dict[str, Any]:
    random = np.random.default_rng(3)
    terms = equation.split("->")[0].split(",")
    return {
        name: random.normal(0, 1, [{**sizes, **SIZES}[label] for label in term]).astype(np.float32)
        for name, term in zip("xyz", terms, strict=False)
    }


@pytest.mark.parametrize("equation", PRODUCTS)
def test_products_of_matrices(parse: Any, apply: Any, same_numbers: Any, equation: str) -> None:
    model = build(parse, equation)
    after, outcome = apply(ExpandEinsum(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert [node.op_type for node in after.graph] == PRODUCTS[equation]
    shapes = {value.name: str(value.shape) for node in after.graph for value in node.outputs}
    assert shapes["out"] == str(model.graph.outputs[0].shape)
    assert all(node.outputs[0].dtype == ir.DataType.FLOAT for node in after.graph)
    inferred = after.clone()
    InferShapes()(inferred)
    for node in inferred.graph:
        assert shapes[node.outputs[0].name] == str(node.outputs[0].shape)
    for sizes in ({"b": 2, "i": 7, "j": 8, "s": 9}, dict.fromkeys("bijs", 1)):
        same_numbers(model, after, feeds(equation, **sizes), atol=1e-5, rtol=1e-5)
    assert not apply(ExpandEinsum(), after)[1].modified


@pytest.mark.parametrize("equation", ["ijbn->bnij", "ij->ij"])
def test_permutations(parse: Any, apply: Any, same_numbers: Any, equation: str) -> None:
    model = build(parse, equation)
    if equation == "ij->ij":
        _, outcome = apply(ExpandEinsum(), model)
        assert not outcome.modified
        assert outcome.refusals[0].reason == "'ij->ij' changes nothing"
        return
    after, outcome = apply(ExpandEinsum(), model)
    assert [node.op_type for node in after.graph] == ["Transpose"]
    same_numbers(model, after, feeds(equation, b=2, i=4, j=5), atol=0, rtol=0)


REFUSED = {
    "bij->bi": "'bij->bi' sums over an operand",
    "bii->bi": "'bii->bi' leaves its output open, broadcasts or takes a diagonal",
    "bij,bjd,bde->bie": "'bij,bjd,bde->bie' has more than two operands, or operands of unknown",
    "bi,bj->bij": "'bi,bj->bij' is not a product of matrices",
    "bij,bj->bi": "'bij,bj->bi' is not a product of matrices",
    "bij,j->b": "'bij,j->b' is not a product of matrices",
    "bijd,bde->bije": "'bijd,bde->bije' has several rows or columns in a batch",
    "bij,dij->bd": "'bij,dij->bd' merges axes of unknown size",
    "bd,dij->bij": "'bd,dij->bij' merges axes of unknown size",
}


@pytest.mark.parametrize("equation", REFUSED)
def test_the_rest_is_refused(parse: Any, apply: Any, equation: str) -> None:
    model = build(parse, equation)
    _, outcome = apply(ExpandEinsum(), model)
    assert not outcome.modified
    (refusal,) = outcome.refusals
    assert (refusal.rule, refusal.node) == ("expand-einsum", "n_out")
    assert refusal.reason.startswith(REFUSED[equation])


def test_an_ellipsis_and_an_open_output_are_refused(parse: Any, apply: Any) -> None:
    for equation in ("...ij,...jd->...id", "bij,bjd"):
        model = build(parse, "bij,bjd->bid")
        model.graph[0].attributes["equation"] = ir.AttrString("equation", equation)
        _, outcome = apply(ExpandEinsum(), model)
        assert outcome.refusals[0].reason.startswith(f"{equation!r} leaves its output open")


def test_an_axis_of_one_is_not_broadcast(parse: Any, apply: Any) -> None:
    model = build(parse, "bij,bjd->bid")
    model.graph.inputs[0].shape = ir.Shape([1, "i", "j"])
    _, outcome = apply(ExpandEinsum(), model)
    assert outcome.refusals[0].reason == "'bij,bjd->bid' broadcasts an axis of size 1"


def test_unknown_ranks_are_refused(parse: Any) -> None:
    model = build(parse, "bij,bjd->bid")
    model.graph.inputs[0].shape = None
    assert "operands of unknown rank" in ExpandEinsum()(model).refusals[0].reason


def test_attention_written_with_einsum_is_fused(parse: Any, apply: Any, same_numbers: Any) -> None:
    """The layout of XLNet: [sequence, batch, heads, size]."""
    model = parse(
        """core (float[i, b, 3, 4] q, float[j, b, 3, 4] k, float[j, b, 3, 4] v,
            float[b, 1, i, j] hidden) => (float[i, b, 3, 4] out)
        { raw = Einsum<equation = "ibnd,jbnd->bnij">(q, k)
          scaled = Mul(raw, half)
          much = Mul(hidden, large)
          scores = Sub(scaled, much)
          p = Softmax<axis = 3>(scores)
          out = Einsum<equation = "bnij,jbnd->ibnd">(p, v) }""",
        half=np.float32(0.5),
        large=np.float32(1e9),
    )
    InferShapes()(model)
    expanded, _ = apply(ExpandEinsum(), model)
    after, outcome = apply(FuseAttention(), expanded)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    for batch, rows, keys in ((2, 5, 7), (1, 1, 1)):
        one = feeds("ibnd,jbnd->bnij", i=rows, j=keys, b=batch)
        case = {"q": one["x"], "k": one["y"], "v": one["y"][::-1].copy()}
        hidden = np.arange(keys) >= keys - np.arange(batch)[:, None] % keys
        mask = np.broadcast_to(hidden[:, None, None, :], (batch, 1, rows, keys))
        case["hidden"] = mask.astype(np.float32)
        same_numbers(model, after, case, atol=1e-5, rtol=1e-5)
