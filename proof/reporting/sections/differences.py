"""Two bundles side by side: every fact of both, those that differ marked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .. import numerals
from ..bundle_facts import BundleFacts
from ..reader import Facts
from ..tables import Table, columns
from .passes import node_counts

_LARGEST_RATIO = 100

Fact = tuple[str, float | None, str]
"""What it is; its number where a ratio means something; how it is written."""


@dataclass(frozen=True)
class Differences:
    """The facts of two bundles.

    Attributes:
        differing: those that differ, with the second through the first where both are numbers.
        same: the others.
        is_one_model: False for two models, whose figures say nothing about one another.
    """

    differing: Table
    same: Table
    is_one_model: bool


def make_differences(first: BundleFacts, second: BundleFacts) -> Differences:
    """Lay the facts of two bundles beside one another."""
    left, right = (dict(_facts(bundle)) for bundle in (first, second))
    differing, same = [], []
    for name in dict.fromkeys([*left, *right]):
        (a, a_text), (b, b_text) = (side.get(name, (None, numerals.DASH)) for side in (left, right))
        if a_text != b_text:
            differing.append([name, a_text, b_text, _ratio(a, b)])
        else:
            same.append([name, a_text])
    return Differences(
        Table(
            caption="What differs",
            columns=columns(f"fact|#A: {first.name}|#B: {second.name}|#B through A"),
            rows=differing,
        ),
        Table(caption="The same in both", columns=columns("fact|#A and B"), rows=same),
        first.manifest.model.digest == second.manifest.model.digest,
    )


def _ratio(a: float | None, b: float | None) -> str:
    """The second through the first; orders of magnitude are no ratio to think in."""
    if not a or not b or not 0.01 < b / a < _LARGEST_RATIO:
        return ""
    return f"{numerals.significant(b / a)}×"


def _facts(bundle: BundleFacts) -> Iterable[tuple[str, tuple[float | None, str]]]:
    for name, number, text in (
        *_identity(bundle), *_engines(bundle), *_quantization(bundle), *_graphs(bundle),
        *_latency(bundle), *_environment(bundle),
    ):  # fmt: skip
        yield name, (number, text)


def _identity(bundle: BundleFacts) -> list[Fact]:
    manifest = bundle.manifest
    return [
        ("model", None, manifest.model.id),
        ("revision", None, manifest.model.revision or numerals.DASH),
        ("weights", None, manifest.weights),
        ("digest of the model", None, manifest.model.digest[:12]),
        ("digest of the recipe", None, manifest.recipe_digest[:12]),
        ("digest of the calibration", None, (manifest.calibration or numerals.DASH)[:12]),
    ]


def _engines(bundle: BundleFacts) -> list[Fact]:
    found: list[Fact] = []
    verdicts = {
        entry.text("target"): entry for entry in bundle.report.part("verification").parts("targets")
    }
    for name, entry in bundle.report.named("targets"):
        verdict = verdicts.get(name, Facts({}, name))
        size, relative = entry.number("bytes"), verdict.number("relative")
        found += [
            (f"{name}: precision", None, entry.text("precision") or numerals.DASH),
            (f"{name}: size", size, numerals.size(size)),
            (f"{name}: verdict", None, {True: "passed", False: "failed"}.get(
                bool(verdict.flag("passed")), numerals.DASH)),
            (f"{name}: relative error", relative, numerals.percent(relative)),
            (f"{name}: least cosine", None, numerals.cosine(verdict.number("cosine_min"))),
        ]  # fmt: skip
    return found


def _quantization(bundle: BundleFacts) -> list[Fact]:
    facts = bundle.report.part("quantization")
    if not facts:
        return [("quantised linears", None, "0")]
    name = facts.text("format") or "int8"
    return [
        ("quantised linears", None,
         f"{numerals.count(facts.count(name))} of {numerals.count(facts.count('linears'))}"),
        ("signal to noise", None, numerals.decibels(facts.number("sqnr_db"))),
        ("calibrated on", None, facts.text("source") or numerals.DASH),
    ]  # fmt: skip


def _graphs(bundle: BundleFacts) -> list[Fact]:
    return [
        (f"nodes, {name}", number, numerals.count(number))
        for name, number in node_counts(bundle).items()
    ]


def _latency(bundle: BundleFacts) -> list[Fact]:
    latency = bundle.report.part("latency")
    return [
        (
            f"{target}: latency, {entry.count('batch')}x{entry.count('sequence')}",
            entry.number("median_ms"),
            numerals.milliseconds(entry.number("median_ms")),
        )
        for target in latency.content
        for entry in latency.parts(target)
    ]


def _environment(bundle: BundleFacts) -> list[Fact]:
    facts = bundle.report.part("environment")
    versions = facts.part("versions")
    cpu = facts.part("cpu").text("model") or numerals.DASH
    return [
        ("CPU", None, cpu),
        *((f"version of {name}", None, versions.text(name) or "") for name in versions.content),
    ]
