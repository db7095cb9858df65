"""Three projections in front of an attention become one product and a Split."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.lowering.merge_qkv import MergeQkv

BLOCK = """block (float[b, s, 8] x, float[b, s, 8] z) => (float[b, s, 8] y{more}) {{
    q0 = MatMul({xq}, wq)
    q = Add(q0, bq)
    k0 = MatMul({xk}, wk)
    k = Add(k0, bk)
    v0 = MatMul({xv}, wv)
    v = Add(v0, bv)
    {side}
    y = Attention<q_num_heads = 2, kv_num_heads = {kv}, scale = 0.5>(q, k, v)
}}"""


@pytest.fixture
def build(parse: Any, rng: np.random.Generator) -> Any:
    def make(
        *, xq: str = "x", xk: str = "x", xv: str = "x", side: str = "", more: str = "",
        kv: int = 2, dtype: Any = np.float32, **replaced: Any,
    ) -> ir.Model:  # fmt: skip
        width = 4 * kv
        made: dict[str, Any] = {"wq": rng.normal(0, 0.5, (8, 8)), "bq": rng.normal(0, 1, 8)}
        for name in "kv":
            made |= {
                f"w{name}": rng.normal(0, 0.5, (8, width)),
                f"b{name}": rng.normal(0, 1, width),
            }
        made |= replaced
        text = BLOCK.format(xq=xq, xk=xk, xv=xv, side=side, more=more, kv=kv)
        if dtype == np.float16:
            text = text.replace("float[", "float16[")
        return parse(  # type: ignore[no-any-return]
            text, **{name: np.asarray(array).astype(dtype) for name, array in made.items()}
        )

    return make


def feeds(rng: np.random.Generator, batch: int, s: int, dtype: Any = np.float32) -> dict[str, Any]:
    return {name: rng.normal(0, 1, (batch, s, 8)).astype(dtype) for name in ("x", "z")}


@pytest.mark.parametrize(
    ("kv", "dtype", "atol"), [(2, np.float32, 2e-6), (1, np.float32, 2e-6), (2, np.float16, 4e-3)]
)
def test_projections_merge(
    build: Any, apply: Any, same_numbers: Any, rng: Any, kv: int, dtype: Any, atol: float
) -> None:
    model = build(kv=kv, dtype=dtype)
    after, outcome = apply(MergeQkv(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert [node.op_type for node in after.graph] == ["MatMul", "Add", "Split", "Attention"]
    weight = after.graph[0].inputs[1]
    assert weight.name == "wq.qkv"
    assert [str(dim) for dim in weight.shape] == ["8", str(8 + 8 * kv)]
    values = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    joined = np.concatenate([values["wq"], values["wk"], values["wv"]], axis=1)
    np.testing.assert_array_equal(weight.const_value.numpy(), joined)
    assert weight.dtype.numpy() == dtype
    widths = after.graph[2].inputs[1].const_value.numpy()
    assert widths.tolist() == [8, 4 * kv, 4 * kv]
    cases = (feeds(rng, 3, 7, dtype), feeds(rng, 1, 1, dtype))
    same_numbers(model, after, *cases, atol=atol, rtol=1e-5)
    _, second = apply(MergeQkv(), after)
    assert (second.modified, second.refusals) == (False, ())


def test_two_layers_with_one_set_of_weights_get_names_of_their_own(
    parse: Any, build: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    def layer(n: int, source: str) -> str:
        projections = "".join(
            f"{name}{n}p = MatMul({source}, w{name})\n {name}{n} = Add({name}{n}p, b{name})\n"
            for name in "qkv"
        )
        attention = f"Attention<q_num_heads = 2, kv_num_heads = 2>(q{n}, k{n}, v{n})"
        return f"{projections} y{n} = {attention}\n"

    values = build().graph.initializers
    model = parse(
        f"shared (float[b, s, 8] x) => (float[b, s, 8] y2) {{ {layer(1, 'x')} {layer(2, 'y1')} }}",
        **{name: value.const_value.numpy() for name, value in values.items()},
    )
    after, outcome = apply(MergeQkv(), model)
    assert outcome.rewrites == 2
    assert {"wq.qkv", "wq.qkv_2"} <= set(after.graph.initializers)
    same_numbers(model, after, {"x": feeds(rng, 2, 5)["x"]}, atol=4e-6, rtol=1e-5)


REFUSED = {
    "cross-attention": ({"xk": "z", "xv": "z"}, "Q, K and V are projected from different tensors"),
    "another V": ({"xv": "z"}, "Q, K and V are projected from different tensors"),
    "K is read elsewhere": ({"side": "side = Neg(k)"}, "a projection has other readers"),
    "a product is read elsewhere": ({"side": "side = Neg(v0)"}, "a projection has other readers"),
    "Q is a graph output": ({"more": ", float[b, s, 8] q"}, "a projection has other readers"),
    "the product is a graph output": (
        {"more": ", float[b, s, 8] q0"},
        "a projection has other readers",
    ),
    "a bias of one number": (
        {"bk": np.ones(1)},
        "a projection has weight [8, 8] and bias [1]",
    ),
    "a bias of two dimensions": (
        {"bk": np.ones((1, 8))},
        "a projection has weight [8, 8] and bias [1, 8]",
    ),
    "a stack of weights": (
        {"wk": np.ones((1, 8, 8))},
        "a projection has weight [1, 8, 8] and bias [8]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_reason(build: Any, apply: Any, name: str) -> None:
    options, reason = REFUSED[name]
    model = build(**options)
    before = [str(node) for node in model.graph]
    after, outcome = apply(MergeQkv(), model)
    assert not outcome.modified
    assert [str(node) for node in after.graph] == before
    (refusal,) = outcome.refusals
    assert (refusal.rule, refusal.node, refusal.reason) == ("merge-qkv", "n_y", reason)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("q = MatMul(x, wq)", "an input is not MatMul + bias"),
        ("q0 = MatMul(x, wq)\n q = Add(q0, x)", "a projection has no constant weight and bias"),
        ("q0 = MatMul(x, z)\n q = Add(q0, bq)", "a projection has no constant weight and bias"),
    ],
)
def test_other_inputs_are_refused(parse: Any, apply: Any, rng: Any, body: str, reason: str) -> None:
    square = rng.normal(0, 1, (8, 8)).astype(np.float32)
    model = parse(
        f"""block (float[b, s, 8] x, float[8, 8] z) => (float[b, s, 8] y) {{
            {body}
            y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, x, x) }}""",
        wq=square,
        bq=square[0],
    )
    _, outcome = apply(MergeQkv(), model)
    assert [refusal.reason for refusal in outcome.refusals] == [reason]


def test_the_joined_weight_is_made_when_it_is_read(build: Any, apply: Any) -> None:
    after, _ = apply(MergeQkv(), build())
    tensor = after.graph[0].inputs[1].const_value
    assert isinstance(tensor, ir.LazyTensor)
    assert tensor.numpy() is tensor.numpy()  # and only once


def test_four_dimensional_attention_is_no_candidate(parse: Any, apply: Any) -> None:
    model = parse(
        """plain (float[b, 2, s, 4] q, float[b, 2, s, 4] k, float[b, 2, s, 4] v)
        => (float[b, 2, s, 4] y) { y = Attention(q, k, v) }"""
    )
    _, outcome = apply(MergeQkv(), model)
    assert (outcome.modified, outcome.refusals) == (False, ())
