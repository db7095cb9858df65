"""Comparison functions for ``polygraphy run --compare-func-script``, see `polygraphy_files`.

This file needs numpy and Polygraphy alone: a copy of it lies beside the results that
`compare --save-polygraphy` writes, with a copy of ``measures.py`` and with ``bounds.json``. Of the
two results it is handed, the reference is the one with masks: ``NAME/judged`` says which numbers of
the output NAME mean something (padding does not), and ``NAME/judged_without_empty_rows`` the same
for candidates that promise nothing for a row without any token.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from polygraphy.comparator.compare import BaseCompareFunc, CompareResult, Threshold

from .measures import METRICS, TOGETHER, broken, measure, scaled

JUDGED = "/judged"
WITHOUT_EMPTY_ROWS = "/judged_without_empty_rows"
BOUNDS_FILE = "bounds.json"
CANDIDATE = "FUSELAGE_CANDIDATE"
"""Environment variable that says which candidate's bounds hold."""


class Limits(Threshold):  # type: ignore[misc]
    """Bounds of one output.

    Args:
        bounds: metric -> bound.
    """

    METRIC_FIELDS = [*METRICS, "faults"]  # noqa: RUF012 (as Polygraphy spells it)

    def __init__(self, bounds: Mapping[str, float]) -> None:
        self.bounds = bounds

    def passed(self, metric_values: Mapping[str, float | None]) -> bool:
        """Whether every bound holds, and nothing was NaN or of another shape."""
        return not metric_values["faults"] and not broken(metric_values, self.bounds)


class Judged(CompareResult):  # type: ignore[misc]
    """Metrics of one output and one case, or their averages over all cases."""

    _THRESHOLD_CLASS = Limits

    def __init__(self, thresholds: Limits, **metrics: float | None) -> None:
        super().__init__(thresholds=thresholds)
        for name, value in metrics.items():
            setattr(self, name, value)

    def describe(self) -> tuple[str, bool]:
        """One line for Polygraphy's log."""
        values = self.metric_values()
        failures = broken(values, self.thresholds.bounds)
        return "; ".join(failures) or "within its bounds", not failures


class EachCase(BaseCompareFunc):  # type: ignore[misc]
    """Judges every metric that is judged case by case."""

    _RESULT_CLASS = Judged
    _SUMMARY_LABEL = "fuselage"
    averages = False

    def __init__(self) -> None:
        path = Path(__file__).with_name(BOUNDS_FILE)
        about = json.loads(path.read_text(encoding="utf-8"))
        self._about = about["candidates"][os.environ[CANDIDATE]]

    def __call__(self, first: Any, second: Any) -> OrderedDict[str, Judged]:
        """Compare the answers to one case."""
        is_reference = any(name.endswith(JUDGED) for name in first)
        reference, candidate = (first, second) if is_reference else (second, first)
        results = OrderedDict()
        for name, about in self._about["outputs"].items():
            wanted = np.asarray(reference[name])
            suffix = JUDGED if self._about["with_empty_rows"] else WITHOUT_EMPTY_ROWS
            judged = np.broadcast_to(reference[name + suffix], wanted.shape)
            got = np.asarray(candidate[name])
            measures = measure(wanted, got, judged, is_logits=about["is_logits"])
            metrics = scaled([measures], about["scale"])[0].metrics()
            results[name] = Judged(
                self.thresholds_for(name), faults=float(measures.fault is not None), **metrics
            )
            if measures.fault is not None:
                print(f"{name}: {measures.fault}")  # noqa: T201 (the terminal is its report)
            elif not results[name].describe()[1]:
                print(f"{name}: {results[name].describe()[0]}")  # noqa: T201
        return results

    def thresholds_for(self, output_name: str) -> Limits:
        """Bounds of an output."""
        bounds = self._about["outputs"].get(output_name, {}).get("bounds", {})
        chosen = {name: bound for name, bound in bounds.items() if self._holds(name)}
        return Limits(chosen)

    def _holds(self, metric: str) -> bool:
        return (metric in TOGETHER) == self.averages


class OnAverage(EachCase):
    """Judges averages over all cases; for ``--check-average``."""

    averages = True
