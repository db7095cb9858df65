"""The table, the options of the lint, and what must not make it stumble."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.errors import GraphError, PassError
from fuselage.passes.lint.finding import Finding
from fuselage.passes.lint.tensorrt import RULES, lint

Parse = Callable[..., ir.Model]
ROOT = Path(__file__).parents[3]
CORPUS = Path(__file__).parent / "corpus"

ATTENTION32 = """
g (float[b, 4, s, 64] q, float[b, 4, s, 64] k, float[b, 4, s, 64] v) => (float[b, 4, s, 64] y) {
    y = Attention(q, k, v)
}"""


def rules(found: tuple[Finding, ...]) -> list[str]:
    return [finding.rule for finding in found]


def test_names_are_unique_and_every_rule_has_a_trap() -> None:
    names = [rule.name for rule in RULES]
    texts = [path.read_text("utf-8") for path in (CORPUS / "traps").glob("*.onnxtxt")]
    trapped = {match for text in texts for match in re.findall(r"# expect: (\S+) at", text)}
    assert len(names) == len(set(names))
    assert trapped == set(names)


def test_the_documentation_lists_every_rule_with_its_severity_and_title() -> None:
    text = (ROOT / "docs" / "lint.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \| (.+?) \|", text, re.MULTILINE)
    assert rows == [(rule.name, rule.severity, rule.title) for rule in RULES]


def test_a_message_says_what_to_do() -> None:
    for path in (CORPUS / "traps").glob("*.onnxtxt"):
        assert path.read_text("utf-8").count("# expect:") == 1, path.name
    (finding,) = lint(ir.from_onnx_text(header(23) + ATTENTION32))
    assert finding == Finding(
        "attention-float32",
        "warning",
        "y",
        "Attention in float32: no GPU has a fused kernel for it, so it does not build unless "
        "marked decomposable, as fuselage does, and then it is built from single kernels, with a "
        "score matrix in memory; lower the graph to float16 or bfloat16",
    )


def header(opset: int) -> str:
    return f'<ir_version: 11, opset_import: ["" : {opset}]>'


@pytest.mark.parametrize(("precision", "found"), [
    (None, ["attention-float32"]), ("fp32", ["attention-float32"]),
    ("fp16", []), ("bf16", []), ("int8", []),
])  # fmt: skip
def test_precision_is_what_float32_is_lowered_to(precision, found) -> None:
    assert rules(lint(ir.from_onnx_text(header(23) + ATTENTION32), precision=precision)) == found


def test_bfloat16_is_found_for_a_gpu_without_it() -> None:
    model = ir.from_onnx_text(header(23) + ATTENTION32)
    found = lint(model, precision="bf16", compute_capabilities=("SM75", "SM89"))
    assert [(f.rule, f.node) for f in found] == [("hardware-type", "q")]
    assert "BFLOAT16, which SM75 lacks" in found[0].message


def test_the_gpu_of_this_machine_is_not_guessed(parse: Parse) -> None:
    text = "g (float[b, 4] x) => (float[b, 4] y) { y = Abs(x) }"
    model = parse(text)
    model.graph.inputs[0].type = ir.TensorType(ir.DataType.FLOAT4E2M1)
    assert rules(lint(model)) == ["hardware-type"]
    assert rules(lint(model, target="tensorrt")) == []


def test_weights_that_overflow_when_lowered_are_found_and_fills_are_not(parse: Parse) -> None:
    text = "g (float[b, 4] x) => (float[b, 4] y) { a = Add(x, fill) y = Mul(a, w) }"
    fill = np.float32(-3.4e38)
    model = parse(text, fill=fill, w=np.array([1, 2, 7e4, 3], np.float32))
    assert lint(model) == ()
    (found,) = lint(model, precision="fp16")
    assert (found.rule, found.node) == ("float16-range", "w")
    assert "'w' holds 70000, beyond float16" in found.message


def test_errors_come_first(parse: Parse) -> None:
    text = """g (float[b, 4, s, 8] q, float[b, 4, s, 8] k, int64[b] unread) => (float[b, 4, s, 8] y)
        { y = Attention <softcap = 9.0> (q, k, k) }"""
    assert rules(lint(parse(text))) == [
        "attention-attribute", "unread-input", "attention-float32", "attention-head-size",
    ]  # fmt: skip


def test_the_model_is_not_changed(parse: Parse) -> None:
    model = parse("g (float[b, 4] x) => (float[b, 4] y) { h = Abs(x) y = Neg(h) }")
    assert model.graph[0].outputs[0].dtype is None
    lint(model)
    assert model.graph[0].outputs[0].dtype is None


def test_types_are_inferred_where_the_file_has_none(parse: Parse) -> None:
    text = """g (float16[b, s, 64] x) => (float16[b, s, 64] y)
        { f = Cast <to = 1> (x) h = Neg(f) a = Add(h, x) y = Abs(a) }"""
    assert [(f.rule, f.node) for f in lint(parse(text))] == [("mixed-types", "n_a")]


def test_nodes_of_subgraphs_and_functions_are_seen() -> None:
    text = """<ir_version: 11, opset_import: ["" : 23, "local" : 1]>
        g (bool c, bool[b, s] x) => (int64[2, n] y) {
            y = If(c) <
                then_branch = t () => (int64[2, n] a) { a = NonZero(x) },
                else_branch = e () => (int64[2, n] d) { d = local.where(x) }
            >
        }
        <domain: "local", opset_import: ["" : 23]>
        where (m) => (i) { i = NonZero(m) }"""
    assert rules(lint(ir.from_onnx_text(text))) == ["no-importer", "no-importer"]


def test_a_graph_that_inference_cannot_read_is_linted_all_the_same(parse: Parse) -> None:
    text = """g (float16[b, 4] x) => (float16[b, 5] y)
        { h = MatMul(x, w) d = DynamicQuantizeLinear(h) y = Identity(x) }"""
    model = parse(text, w=np.zeros((7, 5), np.float16))
    assert rules(lint(model)) == ["no-importer"]


def test_sizes_that_nobody_named_may_be_equal(parse: Parse) -> None:
    text = """g (bool c, float16[b, s] x, float16[b, t] z) => (float16[b, u] y) {
        y = If(c) <
            then_branch = one () => (float16[b, LEFT] a) { a = Abs(x) },
            else_branch = other () => (float16[b, RIGHT] d) { d = Neg(z) }
        > }"""
    assert lint(parse(text.replace("LEFT", "unk_1").replace("RIGHT", "unk_2"))) == ()
    found = lint(parse(text.replace("LEFT", "s").replace("RIGHT", "t")))
    assert [(f.rule, f.node) for f in found] == [("if-branches", "n_y")]
    assert "[b,s] and [b,t]" in found[0].message


def test_scores_are_found_behind_a_mask_that_is_cast(parse: Parse) -> None:
    text = """g (float16[b, s, 64] q, float16[b, 64, t] k, float16[b, t, 64] v, int64[b, 1, t] m)
        => (float16[b, s, 64] y) {
        qk = MatMul(q, k)  wide = Cast <to = 1> (qk)  seen = Cast <to = 9> (m)
        kept = Where(seen, wide, low)  p = Softmax(kept)  narrow = Cast <to = 10> (p)
        bad = IsNaN(narrow)  sound = Where(bad, zero, narrow)  y = MatMul(sound, v) }"""
    model = parse(text, low=np.float32(-1e9), zero=np.float16(0))
    assert [(f.rule, f.node) for f in lint(model)] == [("softmax-float32", "n_p")]


def test_queries_and_keys_of_one_packed_projection_are_no_views(parse: Parse) -> None:
    text = """g (float16[b, s, 128] x, float16[b, s, 64] v) => (float16[b, s, 64] y) {
        q = Slice(x, zero, END, two)  k = Slice(x, START, last, two)
        y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) }"""
    numbers = {"zero": 0, "two": 2, "half": 64, "last": 128}
    constants = {name: np.array([number], np.int64) for name, number in numbers.items()}
    parts = text.replace("END", "half").replace("START", "half")
    assert lint(parse(parts, **constants)) == ()
    views = (
        text.replace("END", "last").replace("START", "zero").replace("[b, s, 64]", "[b, s, 128]")
    )
    assert rules(lint(parse(views, **constants))) == ["attention-shared-operand"]


def test_a_malformed_node_is_one_message() -> None:
    model = ir.from_onnx_text(header(23) + "g (float[b] x) => (float[b] y) { y = If(x) }")
    with pytest.raises(
        GraphError, match=r"malformed: ONNX checker: .*else_branch.*; export it again"
    ):
        lint(model)


def test_an_output_that_no_node_gives_is_one_message(parse: Parse) -> None:
    model = parse("g (float[b] x) => (float[b] y) { y = Abs(x) }")
    model.graph.outputs[0] = ir.Value(name="lost", type=ir.TensorType(ir.DataType.FLOAT))
    with pytest.raises(GraphError, match="malformed: graph output 'lost' is produced by no node"):
        lint(model)


def test_another_target_is_refused() -> None:
    model = ir.from_onnx_text(header(23) + ATTENTION32)
    with pytest.raises(PassError, match="target 'ort-cpu': the lint knows tensorrt-rtx and tenso"):
        lint(model, target="ort-cpu")  # type: ignore[arg-type]
