"""What each output may differ by: defaults by precision, the user's file, the user's options."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...compiler.checks.proof import GATES
from ...errors import VerificationError
from .measures import LEAST, METRICS

Bounds = Mapping[str, float]

EVERY = "*"
"""Stands for every output."""

_SECTIONS = ("default", "output", "precision")
_RELATIVE = {
    # Where the build holds an engine to cosines alone, which a scale of the whole output would
    # pass: the noise may be as large as the least mean cosine allows, sqrt(1 - c^2), doubled.
    "int8": 0.5,
    "fp8": 0.5,
    "int8-weight-only": 0.3,
}
DEFAULTS: Mapping[str, Bounds] = {
    precision: {
        "relative": gate.relative if gate.relative is not None else _RELATIVE[precision],
        "cosine_mean": gate.cosine_mean,
        "cosine_min": gate.cosine_min,
    }
    for precision, gate in GATES.items()
}
"""Bounds of each precision: those a build holds its engines to, see `compiler.checks.proof`."""


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What the user changes of the defaults.

    Attributes:
        outputs: output, or `EVERY` -> metric -> bound.
        precisions: precision -> metric -> bound, in place of the default.
    """

    outputs: Mapping[str, Bounds] = field(default_factory=dict)
    precisions: Mapping[str, Bounds] = field(default_factory=dict)

    def bounds(self, output: str, precision: str | None) -> dict[str, float]:
        """What one output of one candidate is held to; fp32 where the precision is not known."""
        known = _known(precision)
        return {
            **DEFAULTS[known],
            **self.precisions.get(known, {}),
            **self.outputs.get(EVERY, {}),
            **self.outputs.get(output, {}),
        }

    def is_default(self, output: str, precision: str | None, metric: str) -> bool:
        """Whether nobody said what the bound is."""
        said = (
            self.outputs.get(output, {}),
            self.outputs.get(EVERY, {}),
            self.precisions.get(_known(precision), {}),
        )
        return all(metric not in bounds for bounds in said)

    def check_outputs(self, outputs: Sequence[str]) -> None:
        """Refuse bounds for outputs that are not there.

        Raises:
            VerificationError: naming the output and those there are.
        """
        unknown = [name for name in self.outputs if name not in (*outputs, EVERY)]
        if unknown:
            raise VerificationError(
                f"gate: no output is called {unknown[0]!r}; there are {', '.join(outputs)}"
            )


def _known(precision: str | None) -> str:
    return precision if precision is not None and precision in DEFAULTS else "fp32"


def read_gates(path: Path | None, tolerances: Sequence[str] = ()) -> Gates:
    """Read a gate file and what was given with ``--tolerance``, which wins.

    Args:
        path: TOML with ``[default]``, ``[output."NAME"]`` and ``[precision.NAME]``, each with
            metrics and numbers; None for no file.
        tolerances: ``OUTPUT:METRIC=NUMBER``, or ``METRIC=NUMBER`` for every output.

    Raises:
        VerificationError: naming file, line or key, and what was expected.
    """
    outputs: dict[str, dict[str, float]] = {}
    precisions: dict[str, dict[str, float]] = {}
    if path is not None:
        for section, name, bounds in _sections(path, _parsed(path)):
            (precisions if section == "precision" else outputs)[name] = bounds
    for text in tolerances:
        output, metric, bound = _tolerance(text)
        outputs.setdefault(output, {})[metric] = bound
    return Gates(outputs=outputs, precisions=precisions)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VerificationError(
            f"{path}: the gate file cannot be read: {error.strerror}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise VerificationError(f"{path}: the gate file is no TOML: {error}") from error


def _sections(path: Path, values: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, float]]]:
    if not values:
        raise VerificationError(f"{path}: the gate file is empty; expected {_expected()}")
    for section, content in values.items():
        if section not in _SECTIONS:
            raise VerificationError(f"{path}: key {section!r}: expected {_expected()}")
        if section == "default":
            yield section, EVERY, _bounds(path, section, content)
            continue
        if not isinstance(content, dict):
            raise VerificationError(f"{path}: key {section!r}: expected {_expected()}")
        for name, inner in content.items():
            if section == "precision" and name not in DEFAULTS:
                raise VerificationError(
                    f"{path}: key 'precision.{name}': expected one of {', '.join(DEFAULTS)}"
                )
            yield section, name, _bounds(path, f"{section}.{name}", inner)


def _expected() -> str:
    return '[default], [output."NAME"] or [precision.NAME]'


def _bounds(path: Path, key: str, content: object) -> dict[str, float]:
    if not isinstance(content, dict):
        raise VerificationError(
            f"{path}: key {key!r}: expected a table of metrics, got {content!r}"
        )
    for metric, bound in content.items():
        fault = _bound_fault(metric, bound)
        if fault is not None:
            raise VerificationError(f"{path}: key '{key}.{metric}': {fault}")
    return {metric: float(bound) for metric, bound in content.items()}


def _bound_fault(metric: str, bound: object) -> str | None:
    if metric not in METRICS:
        return f"no such metric; expected one of {', '.join(METRICS)}"
    if isinstance(bound, bool) or not isinstance(bound, int | float) or bound != bound:
        return f"expected a number, got {bound!r}"
    if metric not in LEAST and bound < 0:
        return f"expected a bound of at least 0, got {bound!r}"
    if metric in LEAST and metric != "snr_db" and bound > 1:
        return f"expected a bound of at most 1, got {bound!r}"
    return None


def _tolerance(text: str) -> tuple[str, str, float]:
    left, equals, number = text.rpartition("=")
    output, _, metric = left.rpartition(":")
    try:
        bound: object = float(number)
    except ValueError:
        bound = number
    fault = "expected OUTPUT:METRIC=NUMBER, as logits:relative=1e-3"
    if equals:
        fault = _bound_fault(metric, bound) or ""
    if fault:
        raise VerificationError(f"--tolerance {text}: {fault}")
    return output or EVERY, metric, float(number)
