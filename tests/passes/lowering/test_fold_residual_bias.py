"""The bias of a residual branch moves into the norm its residual comes from."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.lowering.fold_residual_bias import FoldResidualBias

HIDDEN, INNER = 8, 12
HEAD = "block (float[b, s, 8] x) => (float[b, s, 8] y{more})"
# A post-LN feed-forward block: the residual is read by the branch and by the sum.
BLOCK = """
    r = LayerNormalization(x, gamma, beta)
    up = MatMul(r, w_up)
    up_b = Add(up, b_up)
    g = Tanh(up_b)
    down = MatMul(g, w_down)
    down_b = Add(down, b_down)
    h = Add(down_b, r)
    y = LayerNormalization(h, gamma, beta2)
"""


@pytest.fixture
def build(parse: Any, rng: np.random.Generator) -> Any:
    def make(body: str, more: str = "", dtype: Any = np.float32) -> ir.Model:
        def normal(*shape: int) -> Any:
            return rng.normal(0, 0.5, shape).astype(dtype)

        text = f"{HEAD.format(more=more)} {{ {body} }}"
        if dtype != np.float32:
            name = {np.float16: "float16", np.float64: "double"}[dtype]
            text = text.replace("float[", f"{name}[")
        return parse(  # type: ignore[no-any-return]
            text,
            gamma=1 + normal(HIDDEN),
            beta=normal(HIDDEN),
            beta2=normal(HIDDEN),
            w_up=normal(HIDDEN, INNER),
            b_up=normal(INNER),
            w_down=normal(INNER, HIDDEN),
            b_down=normal(HIDDEN),
            w_square=normal(HIDDEN, HIDDEN),
            w_stack=normal(2, HIDDEN, INNER),
            wide_beta=normal(5, HIDDEN),
            wide_gamma=normal(5, HIDDEN),
            b_one=normal(1),
            two=np.array(2, dtype),
            table=normal(1, HIDDEN),
            axis0=np.array([0], np.int64),
        )

    return make


def feeds(rng: np.random.Generator, batch: int, s: int, dtype: Any = np.float32) -> dict[str, Any]:
    return {"x": rng.normal(0, 1, (batch, s, HIDDEN)).astype(dtype)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("flipped", [False, True])
def test_the_bias_moves(
    build: Any, apply: Any, same_numbers: Any, rng: Any, flipped: bool, dtype: Any
) -> None:
    body = BLOCK.replace("Add(down_b, r)", "Add(r, down_b)") if flipped else BLOCK
    model = build(body, dtype=dtype)
    after, outcome = apply(FoldResidualBias(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    kinds = [node.op_type for node in after.graph]
    assert kinds.count("Add") == 2  # up_b and h; down_b is gone
    assert len(kinds) == len(model.graph) - 1
    shifted = after.graph[0].inputs[2].const_value.numpy()
    values = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    np.testing.assert_allclose(shifted, values["beta"] + values["b_down"], rtol=1e-6)
    assert shifted.dtype == dtype
    cases = (feeds(rng, 3, 5, dtype), feeds(rng, 1, 1, dtype))
    same_numbers(model, after, *cases, atol=2e-6, rtol=1e-5)
    _, second = apply(FoldResidualBias(), after)
    assert (second.modified, second.refusals) == (False, ())


def test_constants_that_others_share_are_copied(
    build: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    body = BLOCK.replace("beta2", "beta")  # both norms read one bias
    model = build(body)
    after, outcome = apply(FoldResidualBias(), model)
    assert outcome.rewrites == 1
    norms = [node for node in after.graph if node.op_type == "LayerNormalization"]
    assert norms[0].inputs[2] is not norms[1].inputs[2]
    same_numbers(model, after, feeds(rng, 3, 5), atol=2e-6, rtol=1e-5)


def swapped(old: str, new: str) -> str:
    assert old in BLOCK
    return BLOCK.replace(old, new)


REFUSED = {
    "something else reads the residual": (
        swapped("g = Tanh(up_b)", "g = Tanh(up_b)\n side = Mul(r, two)").replace(
            "y = LayerNormalization(h,", "h2 = Add(h, side)\n y = LayerNormalization(h2,"
        ),
        "",
        "Mul 'n_side' reads the residual too",
    ),
    "the residual is multiplied from the right": (
        swapped(
            "up = MatMul(r, w_up)",
            "t = Transpose<perm = [0, 2, 1]>(x)\n sq = MatMul(t, r)\n"
            "wide = MatMul(sq, w_up)\n up0 = ReduceMean<keepdims = 1>(wide)\n"
            "one = MatMul(r, w_up)\n up = Add(one, up0)",
        ),
        "",
        "MatMul 'n_sq' reads the residual too",
    ),
    "the product has no bias": (
        swapped("up_b = Add(up, b_up)", "up_b = Identity(up)"),
        "",
        "MatMul 'n_up' reads the residual too",
    ),
    "the product is read twice": (
        swapped("g = Tanh(up_b)", "g0 = Tanh(up_b)\n g = Add(g0, up)"),
        "",
        "MatMul 'n_up' reads the residual too",
    ),
    "a stack of weights": (
        swapped(
            "up = MatMul(r, w_up)",
            "up4 = MatMul(r, w_stack)\n"
            "up4b = Add(up4, b_up)\n up = ReduceMean<keepdims = 0>(up4b, axis0)",
        ),
        "",
        "MatMul 'n_up4' reads the residual too",
    ),
    "the residual is scaled by a table": (
        swapped(
            "up = MatMul(r, w_up)",
            "r2 = Mul(r, table)\n r3 = Add(r2, beta2)\nup = MatMul(r3, w_up)",
        ),
        "",
        "Mul 'n_r2' reads the residual too",
    ),
    "the residual is a graph output": (BLOCK, ", float[b, s, 8] r", "'r' is a graph output"),
    "the biased product has other readers": (
        swapped("y = LayerNormalization(h,", "h2 = Add(h, down_b)\n y = LayerNormalization(h2,"),
        "",
        "the biased product has other readers",
    ),
    "the biased product is a graph output": (
        BLOCK,
        ", float[b, s, 8] down_b",
        "the biased product has other readers",
    ),
    "the norm has no bias": (
        swapped("r = LayerNormalization(x, gamma, beta)", "r = LayerNormalization(x, gamma)"),
        "",
        r"the LayerNormalization has no constant bias, expected [8]",
    ),
    "the norm is over two axes": (
        swapped(
            "r = LayerNormalization(x, gamma, beta)",
            "r = LayerNormalization<axis = 1>(x, wide_gamma, wide_beta)",
        ),
        "",
        "the LayerNormalization has a bias of shape [5, 8], expected [8]",
    ),
    "a bias of one number": (
        swapped("Add(down, b_down)", "Add(down, b_one)"),
        "",
        "the LayerNormalization has a bias of shape [8], expected [1]",
    ),
    "one product of the residual itself": (
        """r = LayerNormalization(x, gamma, beta)
        a = MatMul(r, w_square)
        a_b = Add(a, b_down)
        y = Add(a_b, r)""",
        "",
        "the branch is one product of the residual, which would have to subtract itself",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_reason(build: Any, apply: Any, name: str) -> None:
    body, more, reason = REFUSED[name]
    model = build(body, more)
    digest = [str(node) for node in model.graph]
    after, outcome = apply(FoldResidualBias(), model)
    assert not outcome.modified
    assert [str(node) for node in after.graph] == digest
    (refusal,) = outcome.refusals
    assert (refusal.rule, refusal.reason) == ("fold-residual-bias", reason)


def test_half_precision_is_refused(build: Any, apply: Any) -> None:
    _, outcome = apply(FoldResidualBias(), build(BLOCK, dtype=np.float16))
    assert not outcome.modified
    assert outcome.refusals[0].reason == (
        "the bias is float16, where the subtraction would lose digits"
    )


@pytest.mark.parametrize(
    "body",
    [
        BLOCK.replace("Add(down_b, r)", "Add(down_b, x)"),  # pre-LN: the skip is no norm
        BLOCK.replace("Add(down, b_down)", "Add(down, x)"),  # not a constant bias
        BLOCK.replace("Add(down_b, r)", "Mul(down_b, r)"),
        BLOCK.replace("down_b = Add(down, b_down)", "d2 = Tanh(down)\n down_b = Add(d2, b_down)"),
    ],
    ids=["pre-LN", "no bias", "product", "no product"],
)
def test_other_sums_are_no_branches(build: Any, apply: Any, body: str) -> None:
    _, outcome = apply(FoldResidualBias(), build(body))
    assert (outcome.modified, outcome.refusals) == (False, ())
