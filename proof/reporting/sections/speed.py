"""Speed: latencies, rates and memory of a benchmark, or the build's first idea."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import numerals
from ..bundle_facts import BundleFacts
from ..plots.latency import TINTS, Curve, draw_distribution, draw_throughput
from ..reader import Facts
from ..subject_names import short_names
from ..tables import Table, columns
from .accuracy import Plot

_CURVES = 6
_WORKS = 8


@dataclass(frozen=True, kw_only=True)
class BenchmarkSection:
    """A benchmark."""

    summary: str
    warning: str
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    notes: tuple[str, ...]


def first_idea(bundle: BundleFacts) -> Table | None:
    """Latencies that the build took; None where no engine ran."""
    latency = bundle.report.part("latency")
    rows = [
        [
            target,
            numerals.count(entry.count("batch")),
            numerals.count(entry.count("sequence")),
            numerals.milliseconds(entry.number("median_ms")),
            numerals.count(entry.count("runs")),
        ]
        for target in latency.content
        for entry in latency.parts(target)
    ]
    if not rows:
        return None
    return Table(
        caption="Latency at the build: a first idea, nothing was compared",
        columns=columns("engine|#batch|#tokens|#median|#runs"),
        rows=rows,
    )


def make_benchmark(document: Facts) -> BenchmarkSection | None:
    """Tell a document of `fuselage bench`; None without one."""
    if not document:
        return None
    works = document.parts("works")
    names = list(dict.fromkeys(name for work in works for name, _ in work.named("candidates")))
    short = short_names(names)
    tints = {name: TINTS[index % len(TINTS)] for index, name in enumerate(names)}
    return BenchmarkSection(
        summary=_summary(document, works),
        warning="" if document.flag("concluded") is not False else
        "The machine was busy with other work, so nothing is concluded from these times.",
        tables=(*(_work_table(work, document, short) for work in works), *_memory(document, short)),
        plots=tuple(_plots(works, tints, short)),
        notes=(
            *document.texts("notes"),
            *(f"{name} was not measured: {document.part('skipped').text(name)}"
              for name in document.part("skipped").content),
        ),
    )  # fmt: skip


def _summary(document: Facts, works: Sequence[Facts]) -> str:
    environment = document.part("environment")
    load = environment.number("load_average")
    when = f", {date[:10]}" if (date := environment.text("date")) else ""
    said = [
        f"{numerals.count(len(works))} {'kind' if len(works) == 1 else 'kinds'} of calls, in mode "
        f"{document.text('mode') or '?'}, on {environment.part('cpu').text('model') or 'this CPU'}"
        f" with {numerals.count(environment.count('threads'))} threads{when}"
    ]
    if load is not None:
        said.append(f", load {numerals.fixed(load, 1)}")
    return "".join(said) + ". Candidates took turns in rounds of random order."


def _work_table(work: Facts, document: Facts, short: Mapping[str, str]) -> Table:
    reference = document.text("reference")
    rows = []
    for name, found in work.named("candidates"):
        shares = found.part("percentiles_ms")
        verdict = work.part("verdicts").part(name)
        rows.append(
            [
                short[name],
                *(
                    numerals.milliseconds(shares.number(key))
                    for key in ("p50", "p90", "p95", "p99")
                ),
                numerals.significant(found.number("sequences_per_second")),
                numerals.significant(found.number("tokens_per_second")),
                numerals.significant(found.number("cpu_seconds_per_1000")),
                "1" if name == reference else _ratio(verdict),
                verdict.text("outcome") or ("reference" if name == reference else "not concluded"),
            ]
        )
    number, tokens = work.count("sequences") or 0, work.number("tokens")
    return Table(
        caption=f"{work.text('name')}: {number} {'sequence' if number == 1 else 'sequences'}, "
        f"{numerals.count(tokens)} real tokens a call",
        columns=columns(
            "candidate|#p50|#p90|#p95|#p99|#sequences/s|#tokens/s|#CPU s per 1,000|"
            "#time, reference = 1|verdict"
        ),
        rows=rows,
    )


def _ratio(verdict: Facts) -> str:
    if "ratio" not in verdict:
        return numerals.DASH
    ratio, low, high = (numerals.fixed(verdict.number(key), 3) for key in ("ratio", "low", "high"))
    return f"{ratio} ({low} to {high})"


def _memory(document: Facts, short: Mapping[str, str]) -> list[Table]:
    rows = []
    for name, found in document.named("memory"):
        sizes = [(key, found.content[key]) for key in found.content if key != "blocker"]
        text = found.text("blocker") or ", ".join(
            f"{key.replace('_', ' ')} {numerals.size(value)}"
            for key, value in sizes
            if isinstance(value, int | float)
        )
        rows.append([short.get(name, name), text])
    if not rows:
        return []
    return [Table(caption="Peak memory", columns=columns("candidate|memory"), rows=rows)]


def _plots(works: Sequence[Facts], tints: dict[str, str], short: Mapping[str, str]) -> list[Plot]:
    plots = []
    for index, work in enumerate(works[:_WORKS]):
        curves = [
            Curve(short[name], tuple(sorted(found.numbers("cdf_ms"))), tints[name])
            for name, found in work.named("candidates")
            if found.numbers("cdf_ms")
        ][:_CURVES]
        if curves:
            name = work.text("name") or "?"
            plots.append(
                Plot(
                    f"Latency, {name}.", "Share of calls that took at most so long.",
                    draw_distribution(curves, name, f"cdf-{index}"),
                )
            )  # fmt: skip
    rates = {
        short[name]: tuple(
            work.part("candidates").part(name).number("sequences_per_second") for work in works
        )
        for name in tints
    }
    if rates and any(rate for found in rates.values() for rate in found):
        svg = draw_throughput(
            [work.text("name") or "?" for work in works], rates,
            {short[name]: tint for name, tint in tints.items()}, "throughput",
        )  # fmt: skip
        plots.append(Plot("Throughput.", "Sequences answered a second.", svg))
    return plots
