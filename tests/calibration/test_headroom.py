from __future__ import annotations

import numpy as np
import pytest

from fuselage.calibration.damage.headroom import Headroom, measure_headroom, most_clipped
from fuselage.calibration.run import calibrate
from fuselage.calibration.session import GraphSession
from fuselage.calibration.statistics.extrema import TensorStatistics
from fuselage.calibration.table import CalibrationTable, TensorRange
from fuselage.calibration.text.data import CalibrationSet
from fuselage.errors import CalibrationError

TEXTS = ["a", "ok then", "the quick brown fox", "jumps over", "x" * 40, "why?", "lazy dogs"] * 3
HELD = ["hello there", "unseen words", "QZ%&", "another text that was not seen"]


@pytest.fixture
def held(graph, tokenize):
    return CalibrationSet.from_texts(HELD).batches(tokenize, graph.inputs)


def tapped(graph, batches, name):
    with GraphSession(graph, (name,)) as session:
        found = [session.run(batch.feeds, (name,))[name] for batch in batches]
    return np.concatenate([array.reshape(-1, array.shape[-1]) for array in found])


def table_of(amax, name="normed"):
    statistics = TensorStatistics(count=1, minimum=-1, maximum=1)
    return CalibrationTable(
        method="absmax", texts=1, tokens=1, source="", graph_digest="", data_digest="",
        ranges={name: TensorRange(amax, statistics)},
    )  # fmt: skip


def test_figures_of_a_plain_range_are_those_of_the_tensor(graph, held):
    rows = tapped(graph, held, "normed")
    amax = float(np.quantile(np.abs(rows), 0.98))
    found = measure_headroom(graph, table_of(amax), held)["normed"]
    bound = amax / 127 * 127.5
    assert found.elements == rows.size
    assert found.reach == pytest.approx(np.abs(rows).max() / amax, rel=1e-6)
    assert found.clip_rate == np.count_nonzero(np.abs(rows) > bound) / rows.size > 0.01


def test_figures_of_a_smoothed_range_are_those_of_the_smoothed_tensor(graph, tokenize, held):
    few = CalibrationSet.from_texts(TEXTS[:1])
    table = calibrate(graph, few, tokenize)
    found = measure_headroom(graph, table, held)
    assert list(found) == list(table.ranges) == ["normed", "active"]
    for name, range_ in table.ranges.items():
        transform = range_.smoothing.transform
        rows = np.abs(tapped(graph, held, name) / transform.scale - transform.shift)
        assert found[name].reach == pytest.approx(rows.max() / range_.amax, rel=1e-5)
        clipped = np.count_nonzero(rows > range_.amax * (1 + 0.5 / 127))
        assert found[name].clip_rate == pytest.approx(clipped / rows.size)
    assert max(item.clip_rate for item in found.values()) > 0


def test_text_that_was_calibrated_with_has_room(graph, tokenize):
    texts = CalibrationSet.from_texts(TEXTS)
    table = calibrate(graph, texts, tokenize, method="absmax")
    found = measure_headroom(graph, table, texts.batches(tokenize, graph.inputs))
    for item in found.values():
        assert item.reach == pytest.approx(1.0)
        assert item.clip_rate == 0.0


def test_an_always_zero_range_clips_all_that_is_not_zero(graph, held):
    found = measure_headroom(graph, table_of(0.0), held)["normed"]
    assert 1e4 < found.reach < np.inf
    assert found.clip_rate > 0.9


def test_infinite_activations_are_an_error(graph, held):
    gamma = graph.model.graph.initializers["gamma"]
    gamma.const_value.numpy()[:] = np.inf
    with pytest.raises(CalibrationError, match=r"tensor 'normed': held-out text makes it NaN"):
        measure_headroom(graph, table_of(1.0), held)


def test_most_clipped_is_by_rate():
    found = {
        "a": Headroom(reach=9.0, clip_rate=0.1, elements=10),
        "b": Headroom(reach=2.0, clip_rate=0.2, elements=10),
    }
    assert most_clipped(found) == ("b", found["b"])
    assert most_clipped({}) is None
