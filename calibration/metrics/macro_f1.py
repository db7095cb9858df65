"""Macro F1: every label counts the same, however rare it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .base import Metric, Rows, beside


def macro_f1(answers: NDArray[np.intp], expected: NDArray[np.intp]) -> float:
    """Mean over labels of ``2 tp / (2 tp + fp + fn)``.

    Labels that neither occur nor are answered are left out, so a choice of examples without a
    label is not punished for it. Sokolova and Lapalme, A systematic analysis of performance
    measures for classification tasks, 2009 (the mean of the F1 of each label).

    Args:
        answers: label of each example [n].
        expected: the right one [n].

    Returns:
        0 to 1.
    """
    size = int(max(answers.max(), expected.max())) + 1
    right = np.bincount(expected[answers == expected], minlength=size)
    both = np.bincount(answers, minlength=size) + np.bincount(expected, minlength=size)
    seen = both > 0
    return float((2 * right[seen] / both[seen]).mean())


def _value(rows: Rows) -> float:
    answers, expected = rows.T.astype(np.intp)
    return macro_f1(answers, expected)


MACRO_F1 = Metric(name="f1", title="macro F1 over the labels", rows=beside, value=_value)
