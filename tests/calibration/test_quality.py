from __future__ import annotations

import numpy as np
import pytest

from fuselage.calibration.data import Batch
from fuselage.calibration.quality import measure_quality
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
    found = measure_quality(reference, candidate, batches((0, 2), (1,)), output="out")
    assert found.texts == 3
    assert found.sqnr_db == pytest.approx(10 * np.log10(30 / 1))
    assert found.cosine_mean == pytest.approx((2 + np.sqrt(0.5)) / 3)
    assert found.cosine_min == pytest.approx(np.sqrt(0.5))
    assert found.worst == 1


def test_equal_outputs_and_zero_vectors():
    rows = [[0, 0], [1, 2]]
    found = measure_quality(Fixed(rows), Fixed(rows), batches((0, 1)), output="out")
    assert found.sqnr_db == 150.0
    assert found.cosine_min == pytest.approx(1.0)
    found = measure_quality(Fixed(rows), Fixed([[1, 0], [1, 2]]), batches((0, 1)), output="out")
    assert found.cosine_min == 0.0
    silent = measure_quality(Fixed([[0, 0]]), Fixed([[1, 0]]), batches((0,)), output="out")
    assert silent.sqnr_db == -150.0


def test_every_token_counts():
    reference = Fixed([[[1, 0], [1, 0]]])
    candidate = Fixed([[[1, 0], [0, 1]]])
    found = measure_quality(reference, candidate, batches((0,)), output="out")
    assert (found.cosine_mean, found.cosine_min) == (0.5, 0.0)


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
        measure_quality(Fixed([[1.0, 2.0]]), Fixed(rows), batches(*groups), output="out")
