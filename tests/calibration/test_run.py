from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.calibration import run
from fuselage.calibration.damage.quality import measure_quality
from fuselage.calibration.run import calibrate
from fuselage.calibration.session import GraphSession
from fuselage.calibration.table import CalibrationTable
from fuselage.calibration.text.data import CalibrationSet
from fuselage.errors import CalibrationError
from fuselage.graph.model import Graph
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.qdq.lower_uint8 import LowerActivationsUint8
from fuselage.passes.qdq.policy import QuantPolicy

TEXTS = ["a", "ok then", "the quick brown fox", "jumps", "over the lazy dog", "x" * 40, "why?"]


def data(texts=TEXTS):
    return CalibrationSet.from_texts(texts, source="words")


def set_weight(graph, name, array):
    graph.model.graph.initializers[name].const_value = ir.tensor(array, name=name)


def test_ranges_are_the_absolute_maxima_of_unpadded_texts(graph, tokenize):
    table = calibrate(graph, data(), tokenize, method="absmax")
    assert list(table.ranges) == ["normed", "active"]
    weights = {name: v.const_value.numpy() for name, v in graph.model.graph.initializers.items()}
    ids = np.concatenate([row.ids for row in tokenize(TEXTS)])
    rows = weights["table"][ids].astype(np.float64)
    centred = rows - rows.mean(1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * weights["gamma"]
    assert table.ranges["normed"].amax == pytest.approx(np.abs(normed).max(), rel=1e-5)
    assert table.ranges["normed"].statistics.count == ids.size * 32
    assert table.ranges["active"].statistics.minimum >= -0.171
    assert (table.texts, table.tokens) == (len(TEXTS), ids.size)


def test_table_says_where_it_comes_from(graph, tokenize):
    table = calibrate(graph, data(), tokenize)
    assert (table.method, table.source) == ("auto", "words")
    assert table.graph_digest == graph.digest()
    assert table.data_digest == data().digest
    assert not any(text in table.to_json() for text in TEXTS if len(text) > 5)


def test_batching_does_not_change_the_ranges(graph, tokenize, monkeypatch):
    table = calibrate(graph, data(), tokenize)
    monkeypatch.setattr(run, "TAP_BYTES", 1)
    alone = calibrate(graph, data(), tokenize)
    for name, found in table.ranges.items():
        assert found.amax == pytest.approx(alone.ranges[name].amax, rel=1e-6)


def test_batches_keep_the_taps_within_the_bound(graph, monkeypatch):
    monkeypatch.setattr(run, "TAP_BYTES", 320 * 10)
    # normed has 32 channels, active 48: 4 * (32 + 48) = 320 bytes a token
    assert run.tap_batch_tokens(QuantPolicy().plan(graph.model)) == 10


def test_progress_ends_at_the_total(graph, tokenize):
    seen = []
    calibrate(graph, data(), tokenize, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(TEXTS), len(TEXTS))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_graph_is_not_changed(graph, tokenize):
    before = graph.digest()
    calibrate(graph, data(), tokenize)
    assert graph.digest() == before


def test_policy_decides_what_is_calibrated(graph, tokenize):
    policy = QuantPolicy(keep_float=("node_down",))
    assert list(calibrate(graph, data(), tokenize, policy=policy).ranges) == ["normed"]


def test_calibrate_insert_and_lower_stays_close_to_float(graph, tokenize):
    quantized = PassPipeline(calibrate(graph, data(), tokenize).passes()).run(graph)
    lowered = Graph(LowerActivationsUint8()(quantized.clone().model).model)
    held = data(["hello there", "unseen words", "q"]).batches(tokenize, graph.inputs)
    with GraphSession(graph) as a, GraphSession(quantized) as b, GraphSession(lowered) as c:
        signed = measure_quality(a, b, held, outputs=["embedding"])
        unsigned = measure_quality(a, c, held, outputs=["embedding"])
    assert unsigned.sqnr_db == pytest.approx(signed.sqnr_db, abs=0.05)
    assert 25 < signed.sqnr_db < 60
    assert 0.99 < signed.cosine_min < 1.0


def test_activations_that_overflow_name_the_tensor(graph, tokenize):
    set_weight(graph, "w1", np.full((32, 48), 3e38, np.float32))
    with pytest.raises(CalibrationError, match=r"tensor 'active': .* activations are NaN or inf"):
        calibrate(graph, data(), tokenize)


def test_constant_activations_calibrate(graph, tokenize):
    set_weight(graph, "w1", np.zeros((32, 48), np.float32))
    table = calibrate(graph, data(), tokenize)
    assert table.ranges["active"].amax == 0.0
    quantized = PassPipeline(table.passes()).run(graph)
    batches = data().batches(tokenize, graph.inputs)
    with GraphSession(graph) as a, GraphSession(quantized) as b:
        assert measure_quality(a, b, batches, outputs=["embedding"]).sqnr_db > 120


def test_graph_without_linears_is_refused(graph, tokenize):
    policy = QuantPolicy(min_size=64)
    with pytest.raises(CalibrationError, match=r"found none .*smaller than 64"):
        calibrate(graph, data(), tokenize, policy=policy)


def test_unknown_tap_is_refused(graph):
    with pytest.raises(CalibrationError, match="'gone': not in the graph"):
        GraphSession(graph, ["gone"])


def test_session_turns_runtime_errors_into_a_sentence(graph):
    with GraphSession(graph) as session:
        feeds = {name: np.full((1, 2), 1000, np.int64) for name in ("input_ids", "attention_mask")}
        with pytest.raises(CalibrationError, match=r"cannot run the graph on .*\[1, 2\]"):
            session.run(feeds)


def quality(graph, tokenize, table):
    quantized = PassPipeline(table.passes()).run(graph)
    batches = data(["hello there", "unseen words", "q", "zebra"]).batches(tokenize, graph.inputs)
    with GraphSession(graph) as a, GraphSession(quantized) as b:
        return measure_quality(a, b, batches, outputs=["embedding"])


MANY = [f"{word} {number}" for number in range(10) for word in TEXTS]


def test_smoothing_gains_six_decibel_where_one_channel_is_twelve_times_the_others(graph, tokenize):
    plain = quality(graph, tokenize, calibrate(graph, data(MANY), tokenize, method="absmax"))
    table = calibrate(graph, data(MANY), tokenize)
    assert quality(graph, tokenize, table).sqnr_db > plain.sqnr_db + 6
    scale = table.ranges["normed"].smoothing.scale
    assert scale[5] > 5 * np.median(scale)


def test_table_read_back_gives_the_same_graph(graph, tokenize):
    table = calibrate(graph, data(MANY), tokenize)
    again = CalibrationTable.from_json(table.to_json())
    assert again == table
    first, second = (PassPipeline(item.passes()).run(graph) for item in (table, again))
    assert first.digest() == second.digest()


def test_same_texts_and_seed_give_the_same_table(graph, tokenize):
    first, second = (calibrate(graph, data(MANY), tokenize).to_json() for _ in range(2))
    assert first == second


def test_rows_that_are_kept_stay_within_the_bound(graph, monkeypatch):
    plan = QuantPolicy().plan(graph.model)
    assert run.reservoir_rows(plan) == 512
    monkeypatch.setattr(run, "RESERVOIR_BYTES", 320 * 100)
    assert run.reservoir_rows(plan) == 100


@pytest.mark.parametrize("method", ["absmax", "percentile", "mse", "entropy"])
def test_estimators_give_plain_ranges(graph, tokenize, method):
    table = calibrate(graph, data(MANY), tokenize, method=method)
    assert table.method == method
    for found in table.ranges.values():
        assert (found.estimator, found.smoothing) == (method, None)
        assert 0 < found.amax <= found.statistics.absmax
    assert [step.name for step in table.passes()] == ["insert-qdq"]


def test_unknown_method_is_refused(graph, tokenize):
    with pytest.raises(CalibrationError, match="method 'kl': expected auto or one of absmax, per"):
        calibrate(graph, data(), tokenize, method="kl")
