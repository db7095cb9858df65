"""F1 of the entities found in texts: right when label, beginning and end are right."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from .base import Metric, Rows

Entity = tuple[str, int, int]
"""Label, and the characters from the first to behind the last."""


def _rows(answers: Sequence[AbstractSet[Entity]], expected: Sequence[AbstractSet[Entity]]) -> Rows:
    """Entities that are right, and those answered and expected together."""
    pairs = zip(answers, expected, strict=True)
    return np.asarray(
        [(len(got & wanted), len(got) + len(wanted)) for got, wanted in pairs], np.float64
    )


def _value(rows: Rows) -> float:
    """``2 tp / (2 tp + fp + fn)`` over all texts (CoNLL-2003); 1 when there is nothing to find.

    Tjong Kim Sang and De Meulder, Introduction to the CoNLL-2003 Shared Task, 2003.
    """
    right, both = rows.sum(axis=0)
    return float(2 * right / both) if both else 1.0


ENTITY_F1 = Metric(name="f1", title="F1 of whole entities", rows=_rows, value=_value)
