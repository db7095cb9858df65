"""How far an answer is from the reference's: one output, one case at a time, then all together.

This file needs numpy alone and imports nothing of fuselage: `compare --save-polygraphy` puts a copy
beside the results, so that the comparison can be repeated where fuselage is not installed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

EDGES = tuple(float(edge) for edge in np.arange(-14.0, 4.5, 0.5))
"""Of the histogram of log10 |error|; errors beyond are counted in the outermost bins."""

MOST = ("relative", "max_abs", "p999", "kl")
LEAST = ("cosine_mean", "cosine_min", "snr_db", "top_1", "top_5")
"""Metrics bounded from above, and those bounded from below."""

TOGETHER = ("cosine_mean", "kl", "top_1", "top_5")
"""Averages, whose mean over all cases is judged; every other metric is judged in each case."""

METRICS = (*MOST, *LEAST)


@dataclass(frozen=True, kw_only=True)
class WorstRow:
    """The vector of a case that is furthest off.

    Attributes:
        row: index of the text in the batch.
        token: index of the token, None where the output has no axis of tokens.
        relative: norm of its error over its own norm (over 1 where that is 0).
    """

    row: int
    token: int | None
    relative: float


@dataclass(frozen=True, kw_only=True)
class Measures:
    """One output of one case.

    Attributes:
        fault: why nothing could be measured: another shape or dtype, NaN, infinity; else None.
        elements: numbers that were judged.
        signal: sum of squares of the reference.
        other: the same of the candidate.
        product: sum of products of the two.
        noise: sum of squares of the error.
        max_abs: largest absolute error.
        p999: what 99.9 % of absolute errors stay within.
        cosines: of every vector along the last axis; empty for vectors of one number.
        kl: of every distribution, nats; empty where the output is none.
        top: k -> share of the reference's k best that are the candidate's, of every distribution
            over more than k.
        histogram: of log10 |error|, between `EDGES`.
        exact: numbers without any error, which have no logarithm.
        worst: the vector that is furthest off, None where nothing was judged.
        scale: usual size of the reference's numbers, for vectors of one number: a score near 0 is
            no measure of its own error. 0 elsewhere, see `scaled`.
    """

    fault: str | None = None
    elements: int = 0
    signal: float = 0.0
    other: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    p999: float = 0.0
    cosines: Floats = field(default_factory=lambda: np.zeros(0))
    kl: Floats = field(default_factory=lambda: np.zeros(0))
    top: Mapping[int, Floats] = field(default_factory=dict)
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(EDGES) - 1, np.int64))
    exact: int = 0
    worst: WorstRow | None = None
    scale: float = 0.0

    @property
    def relative(self) -> float:
        """Frobenius norm of the error over that of the reference (over 1 where that is 0)."""
        signal = max(self.signal, self.scale**2 * self.elements)
        return float(np.sqrt(self.noise / signal if signal else self.noise))

    def metrics(self) -> dict[str, float | None]:
        """Every metric of `METRICS`; None where it means nothing."""
        if self.fault is not None or not self.elements:
            return dict.fromkeys(METRICS)
        return {
            "relative": self.relative,
            "max_abs": self.max_abs,
            "p999": self.p999,
            "cosine_mean": _mean(self.cosines),
            "cosine_min": float(self.cosines.min()) if self.cosines.size else None,
            "snr_db": _decibel(self.relative),
            "kl": _mean(self.kl),
            "top_1": _mean(self.top.get(1)),
            "top_5": _mean(self.top.get(5)),
        }


def measure(reference: Any, candidate: Any, judged: Mask, *, is_logits: bool) -> Measures:
    """Compare one output of one case.

    Args:
        reference: array of any float or integer dtype.
        candidate: the same.
        judged: bool, of the reference's shape: False where an answer means nothing, as at padding.
        is_logits: whether the last axis is a distribution before its softmax.
    """
    fault = _fault(reference, candidate)
    if fault is not None:
        return Measures(fault=fault)
    if not judged.any():
        return Measures()
    wanted, got = (
        np.where(judged, array, 0).astype(np.float64) for array in (reference, candidate)
    )
    error = np.abs(got - wanted)[judged]
    nonzero = error[error > 0]
    logs = np.clip(np.log10(nonzero), EDGES[0], EDGES[-1])
    rows = [_rows(array) for array in (wanted, got, judged)]
    return Measures(
        elements=int(judged.sum()),
        signal=float((wanted**2).sum()),
        other=float((got**2).sum()),
        product=float((wanted * got).sum()),
        noise=float((error**2).sum()),
        max_abs=float(error.max()),
        p999=float(np.quantile(error, 0.999)),
        cosines=_cosines(rows[0], rows[1]),
        kl=_divergences(*rows) if is_logits else np.zeros(0),
        top=_agreements(*rows) if is_logits else {},
        histogram=np.histogram(logs, EDGES)[0].astype(np.int64),
        exact=int(error.size - nonzero.size),
        worst=_worst(wanted, got),
    )


def scale_of(parts: Sequence[Measures]) -> float:
    """Root mean square of the reference over all cases where vectors are one number, else 0."""
    elements = sum(part.elements for part in parts)
    if not elements or any(part.cosines.size for part in parts):
        return 0.0
    return float(np.sqrt(sum(part.signal for part in parts) / elements))


def scaled(parts: Sequence[Measures], scale: float) -> tuple[Measures, ...]:
    """The measures with the scale from `scale_of`."""
    return tuple(replace(part, scale=scale) for part in parts)


def together(parts: Sequence[Measures]) -> dict[str, float | None]:
    """Metrics over all cases: the mean of the cases for `TOGETHER`, else the worst case."""
    cases = [part.metrics() for part in parts]
    found: dict[str, float | None] = {}
    for metric in METRICS:
        values = [value for case in cases if (value := case[metric]) is not None]
        choose: Callable[[Sequence[float]], float] = max if metric in MOST else min
        choose = statistics.fmean if metric in TOGETHER else choose
        found[metric] = choose(values) if values else None
    return found


def broken(metrics: Mapping[str, float | None], bounds: Mapping[str, float]) -> list[str]:
    """Which metrics are beyond their bounds, each in words; a metric without a value is not."""
    failures = []
    for metric, bound in bounds.items():
        value = metrics.get(metric)
        if value is None:
            continue
        if metric in MOST and not value <= bound:
            failures.append(f"{metric} {value:.3g} exceeds {bound:.3g}")
        if metric in LEAST and not value >= bound:
            failures.append(f"{metric} {value:.6g} is below {bound:.6g}")
    return failures


def _fault(reference: Any, candidate: Any) -> str | None:
    if candidate.shape != reference.shape:
        return f"shape {list(candidate.shape)} instead of {list(reference.shape)}"
    if candidate.dtype.kind not in "fiub":
        return f"dtype {candidate.dtype} is no number"
    if (candidate.dtype.kind == "f") != (reference.dtype.kind == "f"):
        return f"dtype {candidate.dtype} instead of {reference.dtype}"
    if candidate.dtype.kind != "f":
        return None
    wrong = ~np.isfinite(candidate) & np.isfinite(reference)
    if not wrong.any():
        return None
    at = [int(index) for index in np.argwhere(wrong)[0]]
    kind = "NaN" if np.isnan(candidate[tuple(at)]) else "infinity"
    return f"{kind} at {at}, {int(wrong.sum()):,} of {wrong.size:,} numbers are not finite"


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)


def _cosines(wanted: Floats, got: Floats) -> Floats:
    if wanted.shape[1] < 2:
        return np.zeros(0)
    real = wanted.any(axis=1)
    wanted, got = wanted[real], got[real]
    norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(got, axis=1)
    cosines: Floats = (wanted * got).sum(axis=1) / np.where(norms > 0, norms, 1.0)
    return cosines


def _divergences(wanted: Floats, got: Floats, judged: Mask) -> Floats:
    """Kullback-Leibler divergence of the candidate's distribution from the reference's."""
    real = judged.any(axis=1)
    kept = judged[real]
    first, second = (_log_softmax(array[real], kept) for array in (wanted, got))
    terms = np.where(kept, np.exp(first) * (first - second), 0.0)
    divergences: Floats = np.maximum(terms.sum(axis=1), 0.0)
    return divergences


def _log_softmax(rows: Floats, judged: Mask) -> Floats:
    shifted = np.where(
        judged, rows - rows.max(axis=1, keepdims=True, where=judged, initial=-1e30), 0
    )
    total = np.where(judged, np.exp(shifted), 0.0).sum(axis=1, keepdims=True)
    logs: Floats = shifted - np.log(total)
    return logs


def _agreements(wanted: Floats, got: Floats, judged: Mask) -> dict[int, Floats]:
    """Of distributions over more than k; all of fewer would be among the best k."""
    first, second = (np.where(judged, array, -np.inf) for array in (wanted, got))
    found = {}
    for k in (1, 5):
        real = judged.sum(axis=1) > k
        if real.any():
            best = [
                np.argpartition(-array[real], k - 1, axis=1)[:, :k] for array in (first, second)
            ]
            shared = (best[0][:, :, None] == best[1][:, None, :]).any(axis=2)
            found[k] = np.asarray(shared.mean(axis=1), np.float64)
    return found


def _worst(wanted: Floats, got: Floats) -> WorstRow:
    noise, signal = (np.linalg.norm(_rows(array), axis=1) for array in (got - wanted, wanted))
    relative = noise / np.where(signal > 0, signal, 1.0)
    at = int(relative.argmax())
    leading = wanted.shape[:-1] if wanted.ndim > 1 else wanted.shape
    place = [int(index) for index in np.unravel_index(at, leading)] or [0]
    token = place[1] if len(place) == 2 else None
    return WorstRow(row=place[0], token=token, relative=float(relative[at]))


def _mean(values: Floats | None) -> float | None:
    return float(values.mean()) if values is not None and values.size else None


def _decibel(relative: float) -> float | None:
    """Ratio of signal to noise; None without noise."""
    return float(-20 * np.log10(relative)) if relative else None
