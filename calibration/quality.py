"""How much an INT8 graph differs from its float original, on texts neither was tuned with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError
from ..graph.tensors import Array, Feeds
from .data import Batch

_PERFECT_DB = 150.0
"""Reported when two outputs are equal to the last bit: beyond what float32 can tell apart."""


class Runnable(Protocol):
    """An open engine or graph session."""

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once and return outputs by name."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How close a candidate's output is to the reference's.

    Attributes:
        texts: how many texts were compared.
        sqnr_db: signal-to-quantisation-noise ratio, ``10 log10(sum ref^2 / sum (ref - cand)^2)``,
            in decibel; 24 dB is 6 % noise.
        cosine_mean: mean cosine of the output vectors (the last axis).
        cosine_min: smallest cosine.
        worst: index of the text with the smallest cosine.
    """

    texts: int
    sqnr_db: float
    cosine_mean: float
    cosine_min: float
    worst: int


def measure_quality(
    reference: Runnable, candidate: Runnable, batches: Sequence[Batch], *, output: str
) -> Quality:
    """Run both on the same batches and compare one output.

    Args:
        reference: the float graph.
        candidate: the INT8 graph or engine.
        batches: from `CalibrationSet.batches`; without padding, so that every row counts.
        output: name of the output, float ``[texts, ..., channels]``.

    Raises:
        CalibrationError: when there are no batches, or an output has another shape or is not
            finite.
    """
    signal = noise = 0.0
    cosines: list[NDArray[np.float64]] = []
    worst: list[tuple[float, int]] = []
    for batch in batches:
        expected = _rows(reference, batch, output)
        got = _rows(candidate, batch, output)
        if expected.shape != got.shape:
            raise CalibrationError(
                f"output {output!r}: reference has shape {expected.shape}, candidate {got.shape}"
            )
        signal += float(np.square(expected).sum())
        noise += float(np.square(expected - got).sum())
        cosine = _cosine(expected, got)
        cosines.append(cosine.ravel())
        lowest = cosine.reshape(len(batch.indices), -1).min(axis=1)
        worst.append((float(lowest.min()), batch.indices[int(lowest.argmin())]))
    if not cosines:
        raise CalibrationError("quality: expected at least one batch of texts, got none")
    every = np.concatenate(cosines)
    return Quality(
        texts=sum(len(batch.indices) for batch in batches),
        sqnr_db=_decibel(signal, noise),
        cosine_mean=float(every.mean()),
        cosine_min=float(every.min()),
        worst=min(worst)[1],
    )


def _rows(runnable: Runnable, batch: Batch, output: str) -> NDArray[np.float64]:
    """Output as ``[texts, vectors, channels]`` in double precision."""
    array = runnable.run(batch.feeds)[output].astype(np.float64)
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


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return _PERFECT_DB
    if signal == 0.0:
        return -_PERFECT_DB
    return float(min(_PERFECT_DB, 10.0 * np.log10(signal / noise)))
