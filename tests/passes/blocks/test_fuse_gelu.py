"""Spelled-out GELUs become the operator; the exact and the tanh form stay apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from scipy.special import erf

from fuselage.passes.blocks.fuse_gelu import FuseGelu

CONSTANTS = {
    "half": 0.5,
    "one": 1.0,
    "two": 2.0,
    "three": 3.0,
    "root_two": math.sqrt(2.0),
    "inverse": math.sqrt(0.5),
    "cubic": 0.044715,
    "tanh_scale": math.sqrt(2.0 / math.pi),
    "rounded": 1.4140625,  # root two in float16
}
EXACT = {
    "half last": """
        d = Div(x, root_two)
        e = Erf(d)
        a = Add(e, one)
        m = Mul(x, a)
        y = Mul(m, half)
    """,
    "half first": """
        h = Mul(x, half)
        d = Div(x, root_two)
        e = Erf(d)
        a = Add(e, one)
        y = Mul(h, a)
    """,
    "times the inverse": """
        h = Mul(x, half)
        d = Mul(x, inverse)
        e = Erf(d)
        a = Add(e, one)
        y = Mul(h, a)
    """,
    "half by division, then the gate": """
        d = Mul(inverse, x)
        e = Erf(d)
        a = Add(one, e)
        h = Div(x, two)
        y = Mul(a, h)
    """,
    "half on the gate": """
        d = Div(x, root_two)
        e = Erf(d)
        a = Add(e, one)
        g = Mul(a, half)
        y = Mul(x, g)
    """,
    "half spread over the gate": """
        d = Div(x, root_two)
        e = Erf(d)
        g = Mul(e, half)
        a = Add(g, half)
        y = Mul(a, x)
    """,
    "divided last": """
        d = Div(x, root_two)
        e = Erf(d)
        a = Add(e, one)
        m = Mul(x, a)
        y = Div(m, two)
    """,
}
TANH = """
    h = Mul(x, half)
    p = Pow(x, three)
    c = Mul(p, cubic)
    s = Add(x, c)
    i = Mul(s, tanh_scale)
    t = Tanh(i)
    a = Add(t, one)
    y = Mul(h, a)
"""
TANHS = {
    "power": TANH,
    "products": """
        q = Mul(x, x)
        p = Mul(q, x)
        c = Mul(cubic, p)
        s = Add(c, x)
        i = Mul(tanh_scale, s)
        t = Tanh(i)
        a = Add(one, t)
        m = Mul(x, a)
        y = Mul(m, half)
    """,
    "factored": """
        l = Mul(x, tanh_scale)
        q = Mul(x, cubic)
        c = Mul(q, x)
        s = Add(c, one)
        i = Mul(l, s)
        t = Tanh(i)
        a = Add(t, one)
        h = Mul(x, half)
        y = Mul(a, h)
    """,
    "square as a power": """
        q = Pow(x, two)
        c = Mul(q, cubic)
        s = Add(c, one)
        l = Mul(s, x)
        i = Mul(l, tanh_scale)
        t = Tanh(i)
        a = Add(t, one)
        g = Mul(a, half)
        y = Mul(g, x)
    """,
}


GATE = "x is multiplied by {1} {0} + {2}, not 0.5 {0} + 0.5"
ERF = "the argument of erf is {} x^1, not 0.707107 x^1"
ARGUMENT = "the argument of tanh is {} x^1 + {} x^3, not 0.797885 x^1 + 0.0356774 x^3"


@pytest.fixture
def build(parse: Any) -> Any:
    def make(body: str, opset: int = 20, outputs: str = "", **changed: Any) -> ir.Model:
        constants = {name: np.float32(value) for name, value in CONSTANTS.items()} | changed
        text = f"gelu (float[b, s, 4] x) => (float[b, s, 4] y{outputs}) {{ {body} }}"
        return parse(text, opset=opset, **constants)  # type: ignore[no-any-return]

    return make


def feeds() -> dict[str, Any]:
    edges = np.array([0, -0.0, 1e-30, -1e-30, 1, -1, 3.5, -3.5, 30, -30, 1e4, -1e4], np.float32)
    return {"x": edges.reshape(1, 3, 4)}


@pytest.mark.parametrize("name", EXACT)
def test_exact_spellings_become_gelu(
    build: Any, apply: Any, same_numbers: Any, run: Any, name: str
) -> None:
    model = build(EXACT[name])
    after, outcome = apply(FuseGelu(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = after.graph
    assert (node.op_type, dict(node.attributes)) == ("Gelu", {})
    x = feeds()["x"].astype(np.float64)
    wanted = x * (1 + erf(x / math.sqrt(2))) / 2
    np.testing.assert_allclose(run(after, feeds())["y"], wanted, atol=2e-6, rtol=1e-6)
    same_numbers(model, after, feeds(), atol=2e-6, rtol=1e-6)
    _, second = apply(FuseGelu(), after)
    assert not second.modified


@pytest.mark.parametrize("name", TANHS)
def test_the_tanh_form_stays_the_tanh_form(
    build: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    model = build(TANHS[name])
    after, outcome = apply(FuseGelu(), model)
    assert outcome.rewrites == 1
    (node,) = after.graph
    assert node.attributes["approximate"].as_string() == "tanh"
    same_numbers(model, after, {"x": feeds()["x"].clip(-30, 30)}, atol=2e-6, rtol=1e-6)
    _, second = apply(FuseGelu(), after)
    assert not second.modified


def test_constants_that_went_through_float16_are_accepted(build: Any, apply: Any) -> None:
    body = EXACT["half last"].replace("root_two", "rounded")
    assert apply(FuseGelu(), build(body))[1].rewrites == 1


@pytest.mark.parametrize(
    ("body", "changed", "reason"),
    [
        (EXACT["half last"], {"half": np.float32(0.51)}, GATE.format(*["erf", "0.51", "0.51"])),
        (EXACT["half last"], {"one": np.float32(-1)}, GATE.format(*["erf", "0.5", "-0.5"])),
        (EXACT["half last"], {"root_two": np.float32(2)}, ERF.format("0.5")),
        (EXACT["half first"], {"root_two": np.float32(1.7)}, ERF.format("0.588235")),
        (EXACT["times the inverse"], {"inverse": np.float32(1)}, ERF.format("1")),
        (
            EXACT["half last"],
            {"half": np.full(4, 0.5, np.float32)},
            GATE.format(*["erf", "1", "1"]),
        ),
        (TANH, {"cubic": np.float32(0.0448)}, ARGUMENT.format("0.797885", "0.0357452")),
        (TANH, {"tanh_scale": np.float32(0.8)}, ARGUMENT.format("0.8", "0.035772")),
        (
            TANH,
            {"three": np.float32(2)},
            "the argument of tanh is 0.797885 x^1 + 0.0356774 x^2, "
            "not 0.797885 x^1 + 0.0356774 x^3",
        ),
        (TANH, {"one": np.float32(2)}, GATE.format(*["tanh", "0.5", "1"])),
        (TANH, {"half": np.float32(1)}, GATE.format(*["tanh", "1", "1"])),
    ],
)
def test_other_constants_are_refused(
    build: Any, apply: Any, body: str, changed: dict[str, Any], reason: str
) -> None:
    after, outcome = apply(FuseGelu(), build(body, **changed))
    assert not outcome.modified
    assert "Gelu" not in [node.op_type for node in after.graph]
    assert [refusal.reason for refusal in outcome.refusals] == [reason]
    assert outcome.refusals[0].node in ("n_e", "n_t")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        # Multiplied by what Erf read: the first candidate for x is d, the second x itself.
        ("m = Mul(x, a)", "m = Mul(d, a)", GATE.format("erf", 0.353553, 0.353553)),
        (
            "e = Erf(d)",
            "e = Tanh(d)",
            "the argument of tanh is 0.707107 x^1, not 0.797885 x^1 + 0.0356774 x^3",
        ),
        (
            "d = Div(x, root_two)",
            "d = Div(root_two, x)",
            "the argument of erf is no polynomial in what it multiplies",
        ),
        (
            "m = Mul(x, a)",
            "o = Neg(x)\n m = Mul(o, a)",
            "the argument of erf is no polynomial in what it multiplies",
        ),
    ],
)
def test_lookalikes_are_no_gelu(build: Any, apply: Any, old: str, new: str, reason: str) -> None:
    body = EXACT["half last"]
    assert old in body
    _, outcome = apply(FuseGelu(), build(body.replace(old, new)))
    assert not outcome.modified
    assert [refusal.reason for refusal in outcome.refusals] == [reason]


def test_inner_results_that_others_read_stay(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(EXACT["half last"], outputs=", float[b, s, 4] e")
    after, _ = apply(FuseGelu(), model)
    same_numbers(model, after, feeds(), atol=2e-6, rtol=1e-6)


def test_x_may_itself_be_scaled_or_a_sum(build: Any, apply: Any, same_numbers: Any) -> None:
    body = EXACT["half last"].replace("x", "v")
    for inner in ("v = Mul(x, two)", "v = Add(x, two)", "v = Div(x, three)"):
        model = build(inner + body)
        after, outcome = apply(FuseGelu(), model)
        assert outcome.rewrites == 1
        assert [node.op_type for node in after.graph][-1] == "Gelu"
        same_numbers(model, after, feeds(), atol=2e-6, rtol=1e-6)


def test_what_follows_the_gelu_stays(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(EXACT["half first"].replace("y =", "g =") + "y = Mul(g, two)")
    after, outcome = apply(FuseGelu(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["Gelu", "Mul"]
    same_numbers(model, after, feeds(), atol=2e-6, rtol=1e-6)


def test_plain_tanh_and_erf_are_not_candidates(build: Any, apply: Any) -> None:
    for body in ("t = Tanh(x)\n y = Mul(t, x)", "e = Erf(x)\n y = Add(e, one)", "y = Tanh(x)"):
        _, outcome = apply(FuseGelu(), build(body))
        assert (outcome.rewrites, outcome.refusals) == (0, ())


def test_two_gelus_in_a_row_both_fuse(build: Any, apply: Any, same_numbers: Any) -> None:
    first = EXACT["half last"]
    second = "".join(
        line.replace("y =", "z =").replace("(x", "(y")
        for line in ("d2 = Div(y, root_two)\n e2 = Erf(d2)\n a2 = Add(e2, one)\n",
                     "m2 = Mul(y, a2)\n z = Mul(m2, half)\n")
    )  # fmt: skip
    model = build(first + second, outputs=", float[b, s, 4] z")
    after, outcome = apply(FuseGelu(), model)
    assert outcome.rewrites == 2
    same_numbers(model, after, feeds(), atol=2e-6, rtol=1e-6)


def test_older_opsets_are_refused(build: Any) -> None:
    with pytest.raises(ir.passes.PreconditionError) as caught:
        FuseGelu()(build(EXACT["half last"], opset=19))
    assert "pass fuse-gelu: emits operators of opset 20, but the graph imports opset 19" in str(
        caught.value.__cause__
    )
