"""How much an INT8 graph differs from its float original, on texts neither was tuned with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import CalibrationError
from ...graph.tensors import Array, Feeds
from ..metrics.bootstrap import Interval, interval, resamples
from ..text.batches import Batch

_PERFECT_DB = 150.0
"""Reported when two outputs are equal to the last bit: beyond what float32 can tell apart."""


class Runnable(Protocol):
    """An open engine or graph session."""

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once and return outputs by name."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How close a candidate's outputs are to the reference's.

    Attributes:
        texts: how many texts were compared.
        sqnr_db: signal-to-quantisation-noise ratio, ``10 log10(sum ref^2 / sum (ref - cand)^2)``,
            in decibel; 24 dB is 6 % noise. Of several outputs, the mean of their noise to signal.
        cosine_mean: mean cosine of the output vectors (the last axis).
        cosine_min: smallest cosine.
        worst: index of the text with the smallest cosine.
        sqnr_interval: where the ratio lies with 95 % confidence for other texts like these; None
            for a single text.
        cosine_interval: likewise of the mean cosine.
    """

    texts: int
    sqnr_db: float
    cosine_mean: float
    cosine_min: float
    worst: int
    sqnr_interval: Interval | None = None
    cosine_interval: Interval | None = None


def measure_quality(
    reference: Runnable, candidate: Runnable, batches: Sequence[Batch], *, outputs: Sequence[str]
) -> Quality:
    """Run both on the same batches and compare their outputs.

    Args:
        reference: the float graph.
        candidate: the INT8 graph or engine.
        batches: from `CalibrationSet.batches`; without padding, so that every row counts.
        outputs: their names, at least one; each is float ``[texts, ..., channels]``.

    Raises:
        CalibrationError: when there are no batches, or an output has another shape or is not
            finite.
    """
    found = [
        [_compare(expected, got, name, batch) for name in outputs]
        for batch in batches
        for expected, got in [(reference.run(batch.feeds), candidate.run(batch.feeds))]
    ]
    if not found:
        raise CalibrationError("quality: expected at least one batch of texts, got none")
    sums = np.concatenate([np.stack([one.sums for one in of], axis=1) for of in found], axis=2)
    return _quality(sums, [one for of in found for one in of])


@dataclass(frozen=True)
class _Compared:
    """One output of one batch.

    Attributes:
        sums: for each text its signal, noise, sum of cosines and number of vectors,
            ``[4, texts]``.
        least: smallest cosine.
        worst: index of its text.
    """

    sums: NDArray[np.float64]
    least: float
    worst: int


def _compare(
    reference: Mapping[str, Array], candidate: Mapping[str, Array], output: str, batch: Batch
) -> _Compared:
    expected, got = _rows(reference, output, batch), _rows(candidate, output, batch)
    if expected.shape != got.shape:
        raise CalibrationError(
            f"output {output!r}: reference has shape {expected.shape}, candidate {got.shape}"
        )
    cosine = _cosine(expected, got)
    lowest = cosine.min(axis=1)
    sums = (
        np.square(expected).sum(axis=(1, 2)),
        np.square(expected - got).sum(axis=(1, 2)),
        cosine.sum(axis=1),
        np.full(len(cosine), cosine.shape[1], np.float64),
    )
    return _Compared(np.stack(sums), float(lowest.min()), batch.indices[int(lowest.argmin())])


def _quality(sums: NDArray[np.float64], found: Sequence[_Compared]) -> Quality:
    """Of sums ``[4, outputs, texts]``."""
    texts = sums.shape[2]
    ratio, mean = _figures(sums.sum(axis=2))
    intervals: list[Interval | None] = [None, None]
    if texts > 1:
        draws = resamples(texts)
        intervals = [interval(f) for f in _figures(_drawn(sums, draws))]
    least = min(found, key=lambda item: (item.least, item.worst))
    return Quality(
        texts=texts,
        sqnr_db=float(ratio),
        cosine_mean=float(mean),
        cosine_min=least.least,
        worst=least.worst,
        sqnr_interval=intervals[0],
        cosine_interval=intervals[1],
    )


def _figures(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """SQNR in decibel and mean cosine of sums ``[4, outputs, ...]``."""
    signal, noise, cosines, vectors = sums
    return _decibel(signal, noise), cosines.sum(axis=0) / vectors.sum(axis=0)


def _drawn(sums: NDArray[np.float64], draws: NDArray[np.intp]) -> NDArray[np.float64]:
    """Sums ``[4, outputs, draws]`` of texts that were drawn, without ever holding all of them."""
    return np.stack([np.stack([one[draws].sum(axis=1) for one in of]) for of in sums])


def _rows(answer: Mapping[str, Array], output: str, batch: Batch) -> NDArray[np.float64]:
    """Output as ``[texts, vectors, channels]`` in double precision."""
    array = answer[output].astype(np.float64)
    if not np.isfinite(array).all():
        raise CalibrationError(f"output {output!r}: expected finite values, got NaN or infinity")
    return array.reshape(len(batch.indices), -1, array.shape[-1])


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine along the last axis; two zero vectors are equal, one is orthogonal to all others."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    dots = (a * b).sum(axis=-1)
    both_zero = ~a.any(axis=-1) & ~b.any(axis=-1)
    cosine = np.where(both_zero, 1.0, dots / np.where(norms > 0, norms, 1.0))
    return np.asarray(np.clip(cosine, -1.0, 1.0))


def _decibel(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of signal and noise ``[outputs, ...]``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(noise == 0.0, 0.0, noise / signal).mean(axis=0)
        return np.asarray(np.clip(-10.0 * np.log10(share), -_PERFECT_DB, _PERFECT_DB))
