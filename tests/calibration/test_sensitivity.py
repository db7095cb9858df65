from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.calibration.damage.sensitivity import linear_noises, thinned
from fuselage.calibration.damage.switch import SWITCH, with_switch
from fuselage.calibration.run import calibrate
from fuselage.calibration.session import GraphSession
from fuselage.calibration.text.batches import Batch
from fuselage.calibration.text.data import CalibrationSet
from fuselage.graph.model import Graph
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.qdq.policy import QuantPolicy

WORDS = ["a", "ok then", "the quick brown fox", "jumps", "over the lazy dog", "x" * 40, "why?"]
TEXTS = [f"{word} {number}" for number in range(6) for word in WORDS]
HELD = ["hello there", "unseen words", "q", "zebra", "another text that was not seen"]


@pytest.fixture
def held(graph, tokenize):
    return CalibrationSet.from_texts(HELD).batches(tokenize, graph.inputs)


def answers(graph, batches, **switch):
    with GraphSession(graph) as session:
        return [session.run({**batch.feeds, **switch})["embedding"] for batch in batches]


def noise(expected, got):
    error = sum(np.square(a.astype(float) - b).sum() for a, b in zip(expected, got, strict=True))
    return error / sum(np.square(a.astype(float)).sum() for a in expected)


# Smoothing goes into a norm there and into a Mul here, so sums are rounded another way.
@pytest.mark.parametrize(("method", "relative"), [("auto", 1e-5), ("absmax", 1e-12)])
def test_switched_linear_answers_like_a_graph_in_which_it_alone_is_int8(
    graph, tokenize, held, method, relative
):
    table = calibrate(graph, CalibrationSet.from_texts(TEXTS), tokenize, method=method)
    expected = answers(graph, held)
    switched = with_switch(graph, table)
    linears = QuantPolicy().plan(graph.model).linears
    noises = []
    for number, linear in enumerate(linears):
        others = tuple(other.output for other in linears if other != linear)
        alone = PassPipeline(table.passes(QuantPolicy(keep_float=others))).run(graph)
        wanted = noise(expected, answers(alone, held))
        got = noise(expected, answers(switched, held, **{SWITCH: np.array(number, np.int64)}))
        assert got == pytest.approx(wanted, rel=relative)
        assert got > 1e-5
        noises.append(got)
    found = linear_noises(graph, table, held, outputs=["embedding"])
    assert [item.linear for item in found] == list(linears)
    assert [item.noise for item in found] == pytest.approx(noises, rel=1e-3)


def test_no_linear_is_int8_with_a_negative_switch(graph, tokenize, held):
    table = calibrate(graph, CalibrationSet.from_texts(TEXTS), tokenize)
    switched = with_switch(graph, table)
    off = {SWITCH: np.array(-1, np.int64)}
    for a, b in zip(answers(graph, held), answers(switched, held, **off), strict=True):
        np.testing.assert_array_equal(a, b)
    # the graph that was given is as it was
    assert [spec.name for spec in graph.inputs] == ["input_ids", "attention_mask"]
    assert graph.op_counts["MatMul"] == 2


def test_weights_of_the_switched_graph_are_shared_and_codes_are_int8(graph, tokenize):
    table = calibrate(graph, CalibrationSet.from_texts(TEXTS), tokenize)
    switched = with_switch(graph, table).model.graph
    for name in ("w1", "w2"):
        before = graph.model.graph.initializers[name].const_value
        assert switched.initializers[name].const_value is before
    added = [
        value.const_value.nbytes
        for name, value in switched.initializers.items()
        if name not in graph.model.graph.initializers
    ]
    assert sorted(added)[-2:] == [32 * 48, 32 * 48]
    assert sum(added) < 2 * 32 * 48 + 3000


def test_kept_float_linears_have_no_switch(graph, tokenize, held):
    policy = QuantPolicy(keep_float=("node_hidden",))
    table = calibrate(graph, CalibrationSet.from_texts(TEXTS), tokenize, policy=policy)
    found = linear_noises(graph, table, held, outputs=["embedding"], policy=policy)
    assert [item.linear.node for item in found] == ["node_down"]


def batch(length, count, first):
    ids = np.arange(first, first + count)[:, None] + np.zeros((1, length), np.int64)
    return Batch({"input_ids": ids}, tuple(range(first, first + count)), length * count)


BATCHES = (batch(2, 10, 0), batch(5, 20, 10), batch(50, 10, 30))


def test_thinned_batches_spread_over_the_lengths_and_keep_rows_and_numbers_together():
    found = thinned(BATCHES, 8, 10_000)
    assert [item.indices for item in found] == [(2, 7), (12, 17, 22, 27), (32, 37)]
    assert [item.tokens for item in found] == [4, 20, 100]
    for item in found:
        np.testing.assert_array_equal(item.feeds["input_ids"][:, 0], item.indices)


def test_few_tokens_leave_out_texts_first_and_the_longest_ones_then():
    assert sum(item.tokens for item in thinned(BATCHES, 32, 500)) <= 500
    found = thinned(BATCHES, 32, 60)
    assert sum(len(item.indices) for item in found) == 8
    assert max(item.tokens // len(item.indices) for item in found) == 5
    assert thinned(BATCHES[2:], 32, 1)[0].indices == tuple(range(30, 38))


def test_fewer_texts_than_asked_for_are_all_taken():
    found = thinned(BATCHES[:1], 32, 1000)
    assert found[0].indices == BATCHES[0].indices
    assert replace(found[0], feeds={}) == replace(BATCHES[0], feeds={})


FORMS = """
<ir_version: 10, opset_import: ["" : 23]>
forms (int64[batch, sequence] input_ids,
       float[64, 32] table, float[32, 32] square, float[48, 32] wide, float[48] bias,
       int64[2] sizes)
    => (float[batch, sequence, 48] out, float[rows, 48] flat)
{
    rows = Gather(table, input_ids)
    first = MatMul(rows, square)
    second = MatMul(first, square)
    turned = Transpose <perm = [1, 0]> (wide)
    out = MatMul(second, turned)
    matrix = Reshape(second, sizes)
    flat = Gemm <transB = 1> (matrix, wide, bias)
}
"""


def forms_graph():
    """Shared weights, a Transpose, a Gemm, and linears that write the graph's outputs."""
    rng = np.random.default_rng(5)
    model = ir.from_onnx_text(FORMS)
    for value in tuple(model.graph.inputs[1:]):
        model.graph.inputs.remove(value)
        shape = [int(size) for size in value.shape]
        array = rng.normal(0, 0.3, shape).astype(np.float32)
        if value.name == "sizes":
            array = np.array([-1, 32], np.int64)
        value.const_value = ir.tensor(array, name=value.name)
        model.graph.register_initializer(value)
    return Graph(model)


@pytest.mark.parametrize("output", ["out", "flat"])
def test_every_form_of_a_linear_can_be_switched(tokenize, output):
    graph = forms_graph()
    table = calibrate(graph, CalibrationSet.from_texts(TEXTS), tokenize, method="absmax")
    held = CalibrationSet.from_texts(HELD).batches(tokenize, graph.inputs)
    linears = QuantPolicy().plan(graph.model).linears
    assert [linear.output for linear in linears] == ["first", "second", "out", "flat"]
    found = linear_noises(graph, table, held, outputs=[output])
    reaching = [item.noise > 1e-6 for item in found]
    assert reaching == [True, True, output == "out", output == "flat"]
    switched = with_switch(graph, table)
    assert [spec.name for spec in switched.outputs] == ["out", "flat"]
    both = sum(item.noise for item in found)
    quantized = PassPipeline(table.passes()).run(graph)
    pairs = [
        (GraphSession(graph).run(batch.feeds)[output], GraphSession(quantized).run(batch.feeds))
        for batch in held
    ]
    whole = noise([a for a, _ in pairs], [b[output] for _, b in pairs])
    assert both == pytest.approx(whole, rel=0.2)


def test_noise_of_several_outputs_is_the_mean_of_each(tokenize):
    graph = forms_graph()
    table = calibrate(graph, CalibrationSet.from_texts(TEXTS), tokenize, method="absmax")
    held = CalibrationSet.from_texts(HELD).batches(tokenize, graph.inputs)
    alone = [
        [item.noise for item in linear_noises(graph, table, held, outputs=[name])]
        for name in ("out", "flat")
    ]
    both = [item.noise for item in linear_noises(graph, table, held, outputs=["out", "flat"])]
    assert both == pytest.approx(np.mean(alone, axis=0).tolist(), rel=1e-9)
