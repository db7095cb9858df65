"""Percentiles by rank, rates, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fuselage.proof.timing.figures import by_rank, figures, percentiles, thinned
from fuselage.proof.timing.turns import Turn
from fuselage.proof.timing.work import Work

MS = 1_000_000


def turn(milliseconds: Sequence[float], *, cpu: int = 0, occupancy: float = 1.0) -> Turn:
    latencies = np.array([m * MS for m in milliseconds], np.int64)
    return Turn(
        starts=np.zeros(len(latencies), np.int64),
        latencies=latencies,
        wall=int(latencies.sum()),
        cpu=cpu,
        occupancy=occupancy,
    )


WORK = Work(name="2x8", sequences=2, inputs=({},), tokens=(12,), padded=(16,))


@pytest.mark.parametrize(
    ("percent", "wanted"), [(50, 5), (90, 9), (91, 10), (99, 10), (100, 10), (10, 1), (1, 1)]
)
def test_a_percentile_is_a_latency_that_was_measured(percent: float, wanted: float) -> None:
    assert by_rank(np.arange(1.0, 11), percent) == wanted


def test_p95_of_twenty_is_the_second_slowest() -> None:
    """0.95 * 20 is 19.000000000000004 in floats, which must not become rank 20."""
    assert by_rank(np.arange(1.0, 21), 95) == 19


def test_the_rarest_percentile_needs_a_thousand_calls() -> None:
    assert list(percentiles(np.arange(999.0))) == ["p50", "p90", "p95", "p99"]
    found = percentiles(np.arange(1.0, 1001))
    assert found["p99.9"] == 999


def test_figures_of_a_race() -> None:
    found = figures([turn([1, 2], cpu=4 * MS), turn([3, 4], cpu=6 * MS)], WORK, [1.5e6, 3.5e6])
    assert found.calls == 4
    assert (found.min_ms, found.mean_ms, found.max_ms) == (1, 2.5, 4)
    assert found.percentiles_ms == {"p50": 2, "p90": 4, "p95": 4, "p99": 4}
    assert found.variation == pytest.approx(np.std([1, 2, 3, 4]) / 2.5)
    assert found.sequences_per_second == pytest.approx(8 / 0.010)
    assert found.tokens_per_second == pytest.approx(48 / 0.010)  # real ones, not 64
    assert found.fill == 0.75
    assert found.cpu_seconds_per_1000 == pytest.approx(0.010 / 8 * 1000)
    assert found.cdf_ms == (1, 2, 3, 4)
    assert found.rounds_ms == (1.5, 3.5)


def test_real_tokens_are_those_of_all_inputs() -> None:
    work = Work(name="texts", sequences=1, inputs=("a", "b"), tokens=(4, 8))
    found = figures([turn([1, 1])], work, [1e6])
    assert found.tokens_per_second == pytest.approx(6 / 0.001)
    assert found.fill is None


def test_occupancy_is_weighed_by_time() -> None:
    found = figures([turn([10], occupancy=1.0), turn([30], occupancy=0.2)], WORK, [1e7, 3e7])
    assert found.occupancy == pytest.approx((10 + 30 * 0.2) / 40)


def test_a_thinned_curve_keeps_its_ends_and_its_ranks() -> None:
    points = thinned(np.arange(10_000.0))
    assert len(points) == 200
    assert (points[0], points[-1]) == (0, 9999)
    assert max(abs(p - 9999 * at / 199) for at, p in enumerate(points)) <= 0.5
    assert thinned(np.arange(3.0)) == [0, 1, 2]


def test_json_is_rounded_to_a_nanosecond() -> None:
    found = figures([turn([1 / 3])], WORK, [1e6 / 3]).as_json()
    assert found["min_ms"] == 0.333333
    assert found["rounds_ms"] == [0.333333]
    assert found["percentiles_ms"] == dict.fromkeys(("p50", "p90", "p95", "p99"), 0.333333)
