"""Blocks are counted by what a graph says, not by what a pass believes to have seen."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.checks.blocks import attentions, nodes_of
from fuselage.compiler.checks.fusion import KINDS, FusionCount, count_fusions
from fuselage.compiler.checks.requirement import Requirement, check_requirements, parse_requirements
from fuselage.errors import BuildError, VerificationError
from fuselage.graph.history import Refusal, StageRecord
from fuselage.graph.model import Graph
from fuselage.passes.masks.meaning import Mask
from fuselage.passes.masks.write import Lengths, write_mask

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
net (float[b, s, 16] x, int64[b, s] padding, float[b, 1, s, s] bias) => (float[b, s, 16] y)
{
    a1 = Attention<q_num_heads = 2, kv_num_heads = 2>(x, x, x, bias)
    a2 = Attention<q_num_heads = 2, kv_num_heads = 2>(a1, a1, a1, bias)
    a3 = Attention<q_num_heads = 2, kv_num_heads = 2>(a2, a2, a2)
    n = LayerNormalization(a3, gain)
    y = Gelu(n)
}"""

SPELLED = {
    "attention": """k = Transpose<perm = [0, 2, 1]>(x)  s = MatMul(x, k)  p = Softmax(s)
        bad = IsNaN(p)  q = Where(bad, zero, p)  y = MatMul(q, x)""",
    "layer_norm": """m = ReduceMean(x, last)  d = Sub(x, m)  e = Pow(d, two)
        v = ReduceMean(e, last)  w = Add(v, tiny)  r = Sqrt(w)  y = Div(d, r)""",
    "rms_norm": """e = Mul(x, x)  v = ReduceMean(e, last)  w = Add(v, tiny)  r = Sqrt(w)
        i = Reciprocal(r)  y = Mul(x, i)""",
    "gelu": "d = Div(x, two)  e = Erf(d)  a = Add(e, tiny)  y = Mul(x, a)",
    "rotary_embedding": """lo, hi = Split<num_outputs = 2, axis = 2>(x)  n = Neg(hi)
        r = Concat<axis = 2>(n, lo)  z = Mul(r, x)  c = Mul(x, two)  y = Add(c, z)""",
}
TANH = """c = Pow(x, three)  d = Mul(c, cube)  e = Add(x, d)  f = Mul(e, two)  t = Tanh(f)
    g = Add(t, tiny)  y = Mul(g, x)"""
ROTARY_HALVES = """lo, hi = Split<num_outputs = 2, axis = 2>(x)
    a = Mul(lo, two)  b = Mul(hi, tiny)  c = Sub(a, b)  d = Mul(hi, two)  e = Mul(lo, tiny)
    f = Add(d, e)  y = Concat<axis = 2>(c, f)"""
CONSTANTS = {
    "zero": np.float32(0),
    "two": np.float32(2),
    "three": np.float32(3),
    "tiny": np.float32(1e-5),
    "cube": np.float32(0.044715),
    "last": np.array([2]),
}

MISS = Refusal("fuse-attention", "n_1", "softmax is over axis 1, not the last of 4")
OTHER = Refusal("fuse-attention", "n_2", "the scale is 0, expected a positive one")
BIAS = Refusal("simplify-attention-mask", "n_a2", "the mask depends on bias")


def record(stage: str, *refusals: Refusal, rolled_back: str | None = None) -> StageRecord:
    return StageRecord(
        stage=stage,
        seconds=0.0,
        nodes_before=1,
        nodes_after=1,
        refusals=refusals,
        rolled_back=rolled_back,
    )


@pytest.fixture
def model() -> ir.Model:
    model = ir.from_onnx_text(TEXT, [ir.tensor(np.ones(16, np.float32), name="gain")])
    tape = ir.tape.Tape()
    padding = model.graph.inputs[1]
    size = ((padding, 1),)
    mask = write_mask(
        model.graph, tape, Mask(padding=padding), Lengths(size, size), ir.DataType.FLOAT
    )
    model.graph.insert_before(model.graph[0], tape.nodes)
    first = next(node for node in model.graph if node.op_type == "Attention")
    first.replace_input_with(3, mask)
    return model


def spell(body: str, head: str = "float[b, s, 8] x") -> Graph:
    """A graph of one block; its nodes are named after their first output."""
    text = f"""<ir_version: 10, opset_import: ["" : 23]>
    net ({head}) => (float[b, s, 8] y) {{ {body} }}"""
    tensors = [
        ir.tensor(array, name=name)
        for name, array in CONSTANTS.items()
        if f"{name})" in body or f"{name}," in body
    ]
    model = ir.from_onnx_text(text, tensors)
    for node in model.graph:
        node.name = f"n_{node.outputs[0].name}"
    return Graph(model)


def test_what_is_present_is_fused_and_found(model: ir.Model) -> None:
    history = (record("simplify-attention-mask", BIAS),)
    counts = count_fusions(Graph(model, history))
    assert tuple(counts) == KINDS
    assert counts["attention"] == FusionCount(3, 3)
    assert counts["attention_mask"] == FusionCount(2, 1, (BIAS,))
    assert counts["layer_norm"] == counts["gelu"] == FusionCount(1, 1)
    for kind in ("grouped_query", "kv_cache", "rms_norm", "rotary_embedding"):
        assert counts[kind] == FusionCount(0, 0)


@pytest.mark.parametrize(
    ("kind", "body"), [*SPELLED.items(), ("gelu", TANH), ("rotary_embedding", ROTARY_HALVES)]
)
def test_a_block_no_pass_saw_is_found_and_named(kind: str, body: str) -> None:
    counts = count_fusions(spell(body))
    assert {name: count.found for name, count in counts.items() if count.found} == {kind: 1}
    (refusal,) = counts[kind].refusals
    assert refusal.node in {f"n_{name}" for name in "pvetry"}
    assert refusal.reason == "no rule took it for a candidate"


def test_a_block_in_a_branch_says_so() -> None:
    inner = SPELLED["attention"].replace("y =", "b =")
    other = "else_branch = e () => (float[b, s, 16] c) { c = Neg(x) }"
    branch = f"then_branch = t () => (float[b, s, 16] b) {{ {inner} }}"
    original = spell(f"flag = Cast<to = 9>(two)  y = If (flag) <{branch}, {other}>")
    counts = count_fusions(original, original)["attention"]
    assert (counts.found, counts.fused) == (1, 0)
    assert counts.refusals[0].reason == (
        "it stands in a branch or a loop; passes rewrite the main graph alone"
    )


def test_a_block_that_vanished_is_found_and_said() -> None:
    original = spell(SPELLED["attention"].replace("y =", "z =") + " y = Identity(x)")
    assert count_fusions(original, original)["attention"].found == 0  # it led to no output
    original = spell(SPELLED["attention"])
    counts = count_fusions(spell("y = Add(x, x)"), original)["attention"]
    reason = "1 blocks of the original are neither fused nor left"
    assert counts == FusionCount(1, 0, (Refusal("fuse-attention", "", reason),))


def test_the_refusal_of_a_pass_explains_its_block() -> None:
    left = spell(SPELLED["attention"])
    graph = Graph(left.model, (record("fuse-attention", MISS),))
    assert count_fusions(graph)["attention"] == FusionCount(1, 0, (MISS,))


def test_the_last_run_of_a_pass_counts_whatever_its_options() -> None:
    left = spell(SPELLED["attention"])
    history = (record("fuse-attention", MISS, OTHER), record("fuse-attention(x=1)", OTHER))
    assert count_fusions(Graph(left.model, history))["attention"].refusals == (OTHER,)


def test_a_pass_that_was_rolled_back_is_not_silent() -> None:
    left = spell(SPELLED["attention"])
    history = (record("fuse-attention", MISS, rolled_back="relative error 1e-2 exceeds 1e-05"),)
    count = count_fusions(Graph(left.model, history))["attention"]
    reason = "rolled back: relative error 1e-2 exceeds 1e-05"
    assert count == FusionCount(1, 0, (Refusal("fuse-attention", "", reason),))


def test_constant_dead_and_repeated_blocks_are_not_counted() -> None:
    gelu = SPELLED["gelu"]
    twice = """d = Div(x, two)  e = Erf(d)  d2 = Div(x, two)  e2 = Erf(d2)  y = Add(e, e2)"""
    graph = spell(twice)
    assert graph.op_counts["Erf"] == 2
    assert count_fusions(graph)["gelu"].found == 1
    constant = gelu.replace("Div(x, two)", "Div(two, two)").replace("Mul(x, a)", "Add(x, a)")
    assert count_fusions(spell(constant))["gelu"].found == 0


def test_blocks_of_functions_and_branches_are_counted() -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 23, "local" : 1]>
    net (float[b, s, 8] x) => (float[b, s, 8] y) {{ h = local.Core(x)  y = local.Core(h) }}
    <domain: "local", opset_import: ["" : 23]>
    Core (x) => (y) {{ zero = Constant<value_float = 0.0>()  {SPELLED["attention"]} }}"""
    graph = Graph(ir.from_onnx_text(text))
    assert len(attentions(nodes_of(graph.model))) == 2
    assert graph.model.functions  # the graph itself is left as it is
    branch = """c = Cast<to = 9>(flag)
        y = If (c) <then_branch = g1 () => (y1) { t = Softmax(x)  y1 = MatMul(t, w) },
                    else_branch = g2 () => (y2) { y2 = Identity(x) }>"""
    graph = spell(branch, head="float[b, s, 8] x, float[8, 8] w, float flag")
    assert count_fusions(graph)["attention"].found == 1


def test_keys_that_are_repeated_or_begin_with_an_input_are_found() -> None:
    body = """all = Concat<axis = 2>(past, k)
        raised = Unsqueeze(all, last)
        wide = Expand(raised, shape)
        keys = Reshape(wide, flat)
        t = Transpose<perm = [0, 1, 3, 2]>(keys)
        s = MatMul(q, t)
        p = Softmax(s)
        y = MatMul(p, keys)"""
    head = """float[b, 4, s, 8] q, float[b, 2, s, 8] k, float[b, 2, m, 8] past,
        int64[5] shape, int64[4] flat"""
    counts = count_fusions(spell(body, head))
    assert counts["attention"].found == counts["kv_cache"].found == 1
    assert counts["grouped_query"].found == 1
    fused = """y, a, b = Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, k, , past, past)"""
    head = "float[b, s, 32] q, float[b, s, 16] k, float[b, 2, m, 8] past"
    counts = count_fusions(spell(fused, head))
    for kind in ("attention", "kv_cache", "grouped_query"):
        assert counts[kind] == FusionCount(1, 1)


ALL = {"found": 6, "fused": 6, "refusals": []}
LEFT = {"found": 6, "fused": 4, "refusals": [vars(MISS).copy(), vars(OTHER).copy()]}


@pytest.mark.parametrize("text", ["attention=all", "attention>=6", "attention >= 4", "gelu=all"])
def test_a_requirement_that_is_met_says_nothing(text: str) -> None:
    nothing = {"found": 0, "fused": 0, "refusals": []}
    check_requirements(parse_requirements([text]), {"attention": ALL, "gelu": nothing}, "m")


def test_a_requirement_that_is_not_met_lists_the_refusals() -> None:
    wanted = parse_requirements(["attention=all,layer_norm=all", "attention>=5", "gelu>=1"])
    fusion = {
        "attention": LEFT,
        "layer_norm": ALL,
        "gelu": {"found": 0, "fused": 0, "refusals": []},
    }
    with pytest.raises(VerificationError) as caught:
        check_requirements(wanted, fusion, "in.onnx")
    message = str(caught.value)
    assert message.startswith(
        "in.onnx: attention=all was required, but 4 of 6 are fused (n_1: softmax is over axis 1, "
        "not the last of 4; n_2: the scale is 0, expected a positive one); attention>=5 was"
    )
    assert "gelu>=1 was required, but 0 of 0 are fused" in message
    assert "layer_norm" not in message
    assert message.count("attention") == 2


def test_a_long_list_of_refusals_is_cut() -> None:
    refusals = [{"rule": "r", "node": f"n{i}", "reason": "x"} for i in range(30)]
    fusion = {"attention": {"found": 30, "fused": 0, "refusals": refusals}}
    with pytest.raises(VerificationError, match=r"n7: x; and 22 more\)"):
        check_requirements((Requirement("attention"),), fusion, "m")


def test_an_old_report_that_does_not_count_a_kind_fails() -> None:
    with pytest.raises(VerificationError, match="the report does not count rms_norm"):
        check_requirements((Requirement("rms_norm"),), {}, "b")


@pytest.mark.parametrize("text", ["attention", "attention=6", "magic=all", "gelu>=", "", "=all"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match="expected KIND=all or KIND>=NUMBER, with KIND one of"):
        parse_requirements([text])


def test_every_kind_has_a_name() -> None:
    assert tuple(count_fusions(spell("y = Add(x, x)"))) == KINDS
    assert isinstance(KINDS, tuple)
