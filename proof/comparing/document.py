"""A comparison as a document of kind ``comparison``; docs/compare.md says what its keys mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...compiler.report import environment
from .cases import Case
from .compare import CandidateResult, Comparison
from .failures import OutputResult
from .measures import EDGES, Measures

SCHEMA = 1
_WORST_ROWS = 10
_SHOWN = 200
"""Characters of a text; a report is no place for a whole one."""


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """Everything a report needs, fit for JSON: a number that is not finite is None."""
    return {
        "schema": SCHEMA,
        "kind": "comparison",
        "passed": comparison.passed,
        "environment": environment(),
        "reference": {"name": comparison.reference, "precision": comparison.precision},
        "notes": list(comparison.notes),
        "cases": [_case(case) for case in comparison.cases],
        "noise_floor": {name: _plain(metrics) for name, metrics in comparison.noise.items()},
        "candidates": [
            _candidate(candidate, comparison.cases) for candidate in comparison.candidates
        ],
    }


def _case(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "shapes": {name: list(array.shape) for name, array in case.feeds.items()},
        "tokens": case.tokens,
        "rows_without_tokens": [int(row) for row in case.empty_rows],
        "texts": [text[:_SHOWN] for text in case.texts],
    }


def _candidate(candidate: CandidateResult, cases: Sequence[Case]) -> dict[str, Any]:
    sway = candidate.invariance
    return {
        "name": candidate.name,
        "precision": candidate.precision,
        "passed": candidate.passed,
        "failures": [asdict(failure) for failure in candidate.failures],
        "divergence": candidate.divergence,
        "divergence_facts": _plain(candidate.divergence_facts),
        "notes": list(candidate.notes),
        "outputs": [_output(output, cases) for output in candidate.outputs],
        "invariance": {
            "rows": sway.rows,
            "in_batch": _plain(sway.in_batch),
            "padded": _plain(sway.padded),
        },
        "determinism": _plain(asdict(candidate.determinism)),
    }


def _output(output: OutputResult, cases: Sequence[Case]) -> dict[str, Any]:
    parts = output.cases
    return {
        "name": output.name,
        "metrics": _plain(output.metrics),
        "bounds": _plain(output.bounds),
        "numbers": sum(part.elements for part in parts),
        "histogram": {
            "edges": list(EDGES),
            "counts": np.sum([part.histogram for part in parts], axis=0).tolist(),
            "exact": sum(part.exact for part in parts),
        },
        "worst_rows": _worst_rows(parts, cases),
        "cases": [
            {"case": case.name, "fault": part.fault, "metrics": _plain(part.metrics())}
            for part, case in zip(parts, cases, strict=True)
        ],
    }


def _worst_rows(parts: Sequence[Measures], cases: Sequence[Case]) -> list[dict[str, Any]]:
    """The worst vector of each case, worst first."""
    found = []
    for part, case in zip(parts, cases, strict=True):
        if part.worst is not None:
            text = case.texts[part.worst.row] if part.worst.row < len(case.texts) else ""
            found.append({"case": case.name, **asdict(part.worst), "text": text[:_SHOWN]})
    found.sort(key=lambda row: -row["relative"])
    return [_plain(row) for row in found[:_WORST_ROWS]]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
