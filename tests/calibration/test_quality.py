from __future__ import annotations

import numpy as np
import pytest

from fuselage.calibration.damage.quality import measure_quality
from fuselage.calibration.metrics.bootstrap import Interval
from fuselage.calibration.text.batches import Batch
from fuselage.errors import CalibrationError


class Fixed:
    """Answers each batch with the rows it names."""

    def __init__(self, rows):
        self.rows = np.asarray(rows, np.float32)

    def run(self, feeds):
        return {"out": self.rows[feeds["index"]]}


def batches(*groups):
    return [Batch({"index": np.array(group)}, group, len(group)) for group in groups]


def test_figures_by_hand():
    reference = Fixed([[3, 4], [1, 0], [0, 2]])
    candidate = Fixed([[3, 4], [1, 1], [0, 2]])
    found = measure_quality(reference, candidate, batches((0, 2), (1,)), outputs=["out"])
    assert found.texts == 3
    assert found.sqnr_db == pytest.approx(10 * np.log10(30 / 1))
    assert found.cosine_mean == pytest.approx((2 + np.sqrt(0.5)) / 3)
    assert found.cosine_min == pytest.approx(np.sqrt(0.5))
    assert found.worst == 1


def test_equal_outputs_and_zero_vectors():
    rows = [[0, 0], [1, 2]]
    found = measure_quality(Fixed(rows), Fixed(rows), batches((0, 1)), outputs=["out"])
    assert found.sqnr_db == 150.0
    assert found.cosine_min == pytest.approx(1.0)
    found = measure_quality(Fixed(rows), Fixed([[1, 0], [1, 2]]), batches((0, 1)), outputs=["out"])
    assert found.cosine_min == 0.0
    silent = measure_quality(Fixed([[0, 0]]), Fixed([[1, 0]]), batches((0,)), outputs=["out"])
    assert silent.sqnr_db == -150.0


def test_outputs_count_alike_whatever_their_size():
    class Two(Fixed):
        def run(self, feeds):
            return super().run(feeds) | {"loud": 1000 * self.rows[feeds["index"]][:, ::-1] ** 2}

    reference, candidate = Two([[3, 4], [1, 0], [0, 2]]), Two([[3, 4], [1, 1], [0, 2]])
    groups = batches((0, 2), (1,))
    shares = {}
    for name in ("out", "loud"):
        found = measure_quality(reference, candidate, groups, outputs=[name])
        shares[name] = 10 ** (-found.sqnr_db / 10)
    assert shares == pytest.approx({"out": 1 / 30, "loud": 1 / (9**2 + 16**2 + 1 + 4**2)})
    both = measure_quality(reference, candidate, groups, outputs=["out", "loud"])
    assert 10 ** (-both.sqnr_db / 10) == pytest.approx(sum(shares.values()) / 2)
    assert both.cosine_mean == pytest.approx((4 + 2 * np.sqrt(0.5)) / 6)
    assert (both.texts, both.worst) == (3, 1)


def test_every_token_counts():
    reference = Fixed([[[1, 0], [1, 0]]])
    candidate = Fixed([[[1, 0], [0, 1]]])
    found = measure_quality(reference, candidate, batches((0,)), outputs=["out"])
    assert (found.cosine_mean, found.cosine_min) == (0.5, 0.0)


def test_intervals_hold_the_figures_and_narrow_with_more_texts():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 16))
    reference, candidate = Fixed(rows), Fixed(rows + 0.1 * rng.normal(size=rows.shape))

    def found(texts):
        return measure_quality(reference, candidate, batches(tuple(range(texts))), outputs=["out"])

    few, many = found(20), found(400)
    for quality in (few, many):
        assert quality.sqnr_interval.low < quality.sqnr_db < quality.sqnr_interval.high
        assert quality.cosine_interval.low < quality.cosine_mean < quality.cosine_interval.high
    width = [found.sqnr_interval.high - found.sqnr_interval.low for found in (few, many)]
    assert width[1] == pytest.approx(width[0] / np.sqrt(20), rel=0.35)
    cosines = 1 - np.square(rows - candidate.rows).sum(1) / np.square(rows).sum(1) / 2
    half = 1.96 * cosines.std() / 20
    assert many.cosine_interval.high - many.cosine_interval.low == pytest.approx(2 * half, rel=0.2)
    assert found(400) == many


def test_a_text_is_drawn_with_all_its_vectors():
    rows = np.array([[[1, 0]] * 3, [[0, 1]] * 3], np.float32)
    other = rows.copy()
    other[0] = [0, 1]
    found = measure_quality(Fixed(rows), Fixed(other), batches((0, 1)), outputs=["out"])
    assert (found.cosine_mean, found.cosine_interval) == (0.5, Interval(0.0, 1.0))


def test_one_text_has_no_interval():
    found = measure_quality(Fixed([[1, 2]]), Fixed([[1, 3]]), batches((0,)), outputs=["out"])
    assert (found.sqnr_interval, found.cosine_interval) == (None, None)


@pytest.mark.parametrize(
    ("rows", "groups", "reason"),
    [
        ([[1.0, 2.0, 3.0]], ((0,),), "reference has shape"),
        ([[np.nan, 1.0]], ((0,),), "NaN or infinity"),
        ([[1.0, 2.0]], (), "at least one batch"),
    ],
)
def test_incomparable_outputs_are_refused(rows, groups, reason):
    with pytest.raises(CalibrationError, match=reason):
        measure_quality(Fixed([[1.0, 2.0]]), Fixed(rows), batches(*groups), outputs=["out"])
