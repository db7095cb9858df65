"""Accuracy: what metrics lose on the user's examples, and how large errors are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .. import numerals
from ..bundle_facts import BundleFacts
from ..documents import Documents
from ..plots.errors import TAIL, Drop, Histogram, draw_drops, draw_histogram
from ..plots.latency import TINTS
from ..reader import Facts
from ..subject_names import named_candidates, short_subject
from ..tables import Table, columns

_METRICS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "relative": ("relative error", numerals.percent),
    "max_abs": ("largest error", numerals.significant),
    "p999": ("99.9 % within", numerals.significant),
    "cosine_mean": ("mean cosine", numerals.cosine),
    "cosine_min": ("least cosine", numerals.cosine),
    "snr_db": ("signal to noise", numerals.decibels),
    "kl": ("KL divergence", numerals.significant),
    "top_1": ("same best answer", numerals.percent),
    "top_5": ("same five best", numerals.percent),
}


@dataclass(frozen=True)
class Plot:
    """A picture with its caption."""

    title: str
    note: str
    svg: Markup


@dataclass(frozen=True, kw_only=True)
class EvaluationSection:
    """Metrics of the task; `table` is None where nothing was measured."""

    summary: str
    table: Table | None
    plots: tuple[Plot, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ComparisonSection:
    """Errors case by case."""

    summary: str
    tables: tuple[Table, ...]
    cases: tuple[Table, ...]
    plots: tuple[Plot, ...]
    failures: tuple[str, ...]
    notes: tuple[str, ...]


def make_evaluation(document: Facts, bundle: BundleFacts) -> EvaluationSection | None:
    """Tell a document of `fuselage evaluate`, or what the build measured; None without either."""
    entries = [
        (who, candidate.text("precision"), metric)
        for who, candidate in named_candidates(document)
        for metric in candidate.parts("metrics")
    ]
    if not document:
        built = bundle.report.part("quantization").parts("accuracy")
        entries = [("graph", bundle.precision, metric) for metric in built]
    if not entries:
        return None
    examples = document.count("examples") or entries[0][2].count("examples")
    source = document.text("source") or entries[0][2].text("source") or "a file"
    held = document.text("reference")
    return EvaluationSection(
        summary=f"On {numerals.count(examples)} examples of {source}, against "
        f"{short_subject(held) if held else 'the float graph'}. The interval holds the loss for 95 "
        "of 100 choices of other examples like these.",
        table=_metrics_table(entries),
        plots=tuple(_drop_plots(entries)),
        notes=(
            *document.texts("notes"),
            *(f"left out {line}" for line in document.texts("left_out")),
        ),
    )


def _metrics_table(entries: Sequence[tuple[str, str | None, Facts]]) -> Table:
    rows = []
    for name, precision, metric in entries:
        candidate = metric.number("candidate")
        if candidate is None:
            candidate = metric.number("int8")
        allowed = metric.number("max_drop")
        rows.append(
            [
                name,
                precision or numerals.DASH,
                metric.text("title") or metric.text("metric") or "?",
                numerals.fixed(metric.number("reference"), 2),
                numerals.fixed(candidate, 2),
                numerals.fixed(metric.number("drop"), 2),
                numerals.interval(metric.numbers("interval"), lambda v: numerals.fixed(v, 2)),
                numerals.DASH if allowed is None else numerals.fixed(allowed, 2),
            ]
        )
    return Table(
        caption="Metrics of the task, in points",
        columns=columns("engine|precision|metric|#reference|#engine|#lost|#95 % interval|#allowed"),
        rows=rows,
    )


def _drop_plots(entries: Sequence[tuple[str, str | None, Facts]]) -> list[Plot]:
    plots: list[Plot] = []
    metrics = dict.fromkeys(metric.text("metric") or "?" for _, _, metric in entries)
    for name in metrics:
        drops = [
            Drop(who, metric.number("drop") or 0.0, metric.numbers("interval"),
                 metric.number("max_drop"))
            for who, _, metric in entries
            if (metric.text("metric") or "?") == name
        ]  # fmt: skip
        svg = draw_drops(drops, name, f"drop-{len(plots)}")
        allowed = (
            " The mark is what may be lost." if any(d.allowed is not None for d in drops) else ""
        )
        plots.append(Plot(f"Loss of {name}.", f"Dot: measured; line: 95 % interval.{allowed}", svg))
    return plots


def make_comparison(documents: Documents) -> ComparisonSection | None:
    """Tell a document of `fuselage compare`; None without one."""
    document = documents.comparison
    if not document:
        return None
    candidates = named_candidates(document)
    cases = document.parts("cases")
    reference = document.part("reference").text("name") or "the reference"
    return ComparisonSection(
        summary=f"{numerals.count(len(cases))} cases, adversarial ones among them (one token, the "
        f"longest input, padded rows, repeated tokens), against {short_subject(reference)}: "
        f"{'every bound holds' if document.flag('passed') else 'a bound does not hold'}.",
        tables=(_comparison_table(document, candidates),),
        cases=tuple(_case_tables(candidates)),
        plots=tuple(_histogram_plots(candidates)),
        failures=tuple(_failures(candidates)),
        notes=tuple(_comparison_notes(document, candidates)),
    )


def _comparison_table(document: Facts, candidates: Sequence[tuple[str, Facts]]) -> Table:
    found = [
        (who, output.text("name") or "?",
         output.part("metrics"), output.part("bounds"))
        for who, candidate in candidates
        for output in candidate.parts("outputs")
    ]  # fmt: skip
    found += [
        ("reference in float64", name, metrics, Facts({}, ""))
        for name, metrics in document.named("noise_floor")
    ]
    used = [key for key in _METRICS if any(key in metrics for _, _, metrics, _ in found)]
    rows = [
        [who, output, *(_bounded(key, metrics, bounds) for key in used)]
        for who, output, metrics, bounds in found
    ]
    return Table(
        caption="Worst of all cases (means over all), and the bound where there is one",
        columns=columns("|".join(["engine", "output", *(f"#{_METRICS[key][0]}" for key in used)])),
        rows=rows,
    )


def _bounded(key: str, metrics: Facts, bounds: Facts) -> Markup | str:
    write = _METRICS[key][1]
    text = write(metrics.number(key))
    if key not in bounds:
        return text
    return Markup('{}<br><span class="soft">bound {}</span>').format(
        text, write(bounds.number(key))
    )


def _case_tables(candidates: Sequence[tuple[str, Facts]]) -> list[Table]:
    tables = []
    for who, candidate in candidates:
        for output in candidate.parts("outputs"):
            rows = []
            for case in output.parts("cases"):
                metrics = case.part("metrics")
                rows.append(
                    [
                        case.text("case") or "?",
                        case.text("fault") or "none",
                        *(_METRICS[key][1](metrics.number(key))
                          for key in ("relative", "max_abs", "cosine_min")),
                    ]
                )  # fmt: skip
            tables.append(
                Table(
                    caption=f"Every case: {output.text('name')} of {who}",
                    columns=columns("case|fault|#relative error|#largest error|#least cosine"),
                    rows=rows,
                    sortable=True,
                )
            )
    return tables


def _histogram_plots(candidates: Sequence[tuple[str, Facts]]) -> list[Plot]:
    found: dict[str, list[Histogram]] = {}
    for index, (who, candidate) in enumerate(candidates):
        for output in candidate.parts("outputs"):
            facts = output.part("histogram")
            edges, counts = facts.numbers("edges"), facts.numbers("counts")
            if len(edges) == len(counts) + 1 and any(counts):
                found.setdefault(output.text("name") or "?", []).append(
                    Histogram(
                        who, edges, counts,
                        facts.count("exact") or 0, TINTS[index % len(TINTS)],
                    )
                )  # fmt: skip
    return [
        Plot(
            f"Errors of {output}.",
            "Share of all numbers with an absolute error of this size; the smallest "
            f"{100 * TAIL:.0f}\N{NO-BREAK SPACE}% may lie to the left.",
            draw_histogram(histograms, output, f"errors-{index}"),
        )
        for index, (output, histograms) in enumerate(found.items())
    ]


def _failures(candidates: Sequence[tuple[str, Facts]]) -> list[str]:
    lines = []
    for who, candidate in candidates:
        for failure in candidate.parts("failures"):
            where = f" in the case {failure.text('case')}" if "case" in failure else ""
            lines.append(f"{who}: {failure.text('output')}: {failure.text('reason')}{where}")
        if "divergence" in candidate:
            lines.append(f"{who}: {candidate.text('divergence')}")
    return lines


def _comparison_notes(document: Facts, candidates: Sequence[tuple[str, Facts]]) -> list[str]:
    notes = list(document.texts("notes"))
    for who, candidate in candidates:
        notes += [f"{who}: {note}" for note in candidate.texts("notes")]
        steady = candidate.part("determinism")
        if steady.flag("identical") is not None:
            same = "the same bits" if steady.flag("identical") else "different bits"
            notes.append(f"{who}: {numerals.count(steady.count('runs'))} runs gave {same}.")
        for name, metrics in candidate.part("invariance").named("in_batch"):
            notes.append(
                f"{who}: {name} of a text alone and in a batch differ by "
                f"{numerals.percent(metrics.number('relative'))}."
            )
    return notes
