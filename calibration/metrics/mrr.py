"""Mean reciprocal rank: how far up the first relevant passage stands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .base import Metric, Rows, mean

Scores = NDArray[np.float64]
"""One score a passage [passages]."""


def reciprocal_rank(scores: Scores, relevant: int) -> float:
    """One over the rank of the best relevant passage.

    Passages with the same score stand in the worst order, so that a model that tells nothing
    apart gains nothing.

    Voorhees, The TREC-8 Question Answering Track Report, 1999.

    Args:
        scores: [passages], of which the first ones are relevant.
        relevant: how many are.
    """
    best = scores[:relevant].max()
    return float(1 / (1 + np.count_nonzero(scores[relevant:] >= best)))


def _rows(answers: Sequence[Scores], expected: Sequence[int]) -> Rows:
    pairs = zip(answers, expected, strict=True)
    return np.asarray([reciprocal_rank(scores, count) for scores, count in pairs])[:, None]


MRR = Metric(name="mrr", title="mean reciprocal rank", rows=_rows, value=mean)
