"""Pseudo-perplexity: how many tokens a masked language model hesitates between."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .base import Metric, Rows

_LARGEST = 700.0
"""Beyond it the exponential leaves float64."""


def _rows(answers: Sequence[NDArray[np.float64]], expected: Sequence[None]) -> Rows:
    """Sum of the negative log-likelihoods of a text's tokens, and how many there are."""
    del expected
    return np.asarray([(-found.sum(), found.size) for found in answers], np.float64)


def _value(rows: Rows) -> float:
    """``exp(-mean log p(token | all others))`` over all tokens of all texts.

    Salazar et al., Masked Language Model Scoring, 2020, equation 4.
    """
    lost, tokens = rows.sum(axis=0)
    return math.exp(min(lost / tokens, _LARGEST))


PSEUDO_PERPLEXITY = Metric(
    name="pseudo_perplexity",
    title="pseudo-perplexity, 1 for a model that is sure of every token",
    rows=_rows,
    value=_value,
    scale=1.0,
    lower_is_better=True,
)
