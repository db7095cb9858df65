"""Which metrics judge which form of examples, and how much of one may be lost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from ...errors import CalibrationError
from .accuracy import ACCURACY
from .answer_text import ANSWER_F1, EXACT_MATCH
from .base import POINTS, Metric
from .entity_f1 import ENTITY_F1
from .macro_f1 import MACRO_F1
from .mrr import MRR
from .pseudo_perplexity import PSEUDO_PERPLEXITY
from .spearman import SPEARMAN

Form = Literal["scores", "labels", "answers", "entities", "rankings", "tokens"]

METRICS: Mapping[Form, tuple[Metric, ...]] = {
    "scores": (SPEARMAN,),
    "labels": (ACCURACY, MACRO_F1),
    "answers": (ANSWER_F1, EXACT_MATCH),
    "entities": (ENTITY_F1,),
    "rankings": (MRR,),
    "tokens": (PSEUDO_PERPLEXITY,),
}

NAMES = tuple(sorted({metric.name for metrics in METRICS.values() for metric in metrics}))


def check_fits(names: Iterable[str], form: Form, task: str) -> None:
    """Refuse metrics that do not judge a form of examples.

    Raises:
        CalibrationError: naming those that do.
    """
    fitting = [metric.name for metric in METRICS[form]]
    wrong = next((name for name in names if name not in fitting), None)
    if wrong is not None:
        raise CalibrationError(
            f"metric {wrong!r}: it does not judge the answers of this model ({task}, judged by "
            f"{form}); expected {' or '.join(fitting)}"
        )


def parse_max_drop(items: Sequence[str]) -> dict[str, float]:
    """``spearman=0.1`` to what it says: at most 0.1 points of 100 may be lost.

    Raises:
        CalibrationError: when an item is malformed, names no metric, or one twice.
    """
    drops: dict[str, float] = {}
    for item in items:
        name, equals, text = (part.strip() for part in item.partition("="))
        if not equals:
            raise CalibrationError(
                f"max-drop {item!r}: expected METRIC=POINTS, for example spearman=0.1"
            )
        if name in drops:
            raise CalibrationError(f"max-drop {item!r}: {name} is given twice")
        try:
            drops[name] = float(text)
        except ValueError:
            raise CalibrationError(
                f"max-drop {item!r}: expected a number of points, got {text!r}"
            ) from None
    check_max_drop(drops)
    return drops


def check_max_drop(drops: Mapping[str, Any]) -> None:
    """Refuse metrics that do not exist and drops that are no points.

    Raises:
        CalibrationError: naming the metric.
    """
    for name, points in drops.items():
        if name not in NAMES:
            raise CalibrationError(
                f"max-drop {name}={points}: unknown metric; expected one of {', '.join(NAMES)}"
            )
        is_number = isinstance(points, int | float) and not isinstance(points, bool)
        if not is_number or not math.isfinite(points) or not 0 <= points <= POINTS:
            raise CalibrationError(
                f"max-drop {name}={points}: expected 0 to 100 points; 0.1 is a tenth of a point"
            )
