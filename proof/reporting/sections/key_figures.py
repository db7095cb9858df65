"""The few numbers that decide: precision, size, latency, signal to noise, and the worst metric."""

from __future__ import annotations

from dataclasses import dataclass

from .. import numerals
from ..bundle_facts import BundleFacts
from ..documents import Documents
from ..reader import Facts
from ..subject_names import concerns, short_subject


@dataclass(frozen=True)
class Figure:
    """One number that decides, with what it means."""

    name: str
    value: str
    meaning: str


def key_figures(bundle: BundleFacts, documents: Documents) -> tuple[Figure, ...]:
    """The numbers that stand right below the verdict.

    Args:
        bundle: that is judged.
        documents: about it alone.
    """
    figures = [
        _precision(bundle),
        _size(bundle),
        _speed(bundle, documents["benchmark"]),
        _fidelity(bundle),
        _metric(documents["evaluation"], bundle),
    ]
    return tuple(figure for figure in figures if figure is not None)


def _precision(bundle: BundleFacts) -> Figure:
    quantization = bundle.report.part("quantization")
    if not quantization:
        return Figure("Precision", bundle.precision.upper(), "nothing is quantised")
    name = quantization.text("format") or "int8"
    coded, linears = quantization.count(name), quantization.count("linears")
    what = "weights alone, " if quantization.flag("weight_only") else ""
    return Figure(
        "Precision",
        bundle.precision.upper(),
        f"{what}{numerals.count(coded)} of {numerals.count(linears)} linear layers quantised",
    )


def _size(bundle: BundleFacts) -> Figure | None:
    sizes = {
        name: entry.number("bytes")
        for name, entry in bundle.report.named("targets")
        if entry.number("bytes")
    }
    if not sizes:
        return None
    name = min(sizes, key=lambda key: sizes[key] or 0)
    weights = bundle.report.part("model").number("weight_bytes")
    share = f"{numerals.percent((sizes[name] or 0) / weights)} of " if weights else ""
    return Figure(
        "Size of the smallest engine",
        numerals.size(sizes[name]),
        f"{name}; {share}{numerals.size(weights)} of weights in the model",
    )


def _speed(bundle: BundleFacts, benchmark: Facts) -> Figure:
    measured = _raced(benchmark, bundle)
    if measured is not None:
        return measured
    latency = bundle.report.part("latency")
    for target in latency.content:
        for entry in latency.parts(target):
            return Figure(
                "Latency, a first idea",
                numerals.milliseconds(entry.number("median_ms")),
                f"median on {target}, batch {entry.count('batch')}, "
                f"{entry.count('sequence')} tokens",
            )
    return Figure("Latency", "not measured", "no engine of it runs where it was built")


def _raced(benchmark: Facts, bundle: BundleFacts) -> Figure | None:
    """The first piece of work: its median, and by how much the slowest other is slower."""
    reference = benchmark.text("reference") or ""
    if benchmark.flag("concluded") is False:
        return None
    for work in benchmark.parts("works")[:1]:
        candidates = work.part("candidates")
        own = [name for name in candidates.content if concerns(name, bundle)]
        name = reference if reference in own else next(iter(own), "")
        median = candidates.part(name).part("percentiles_ms").number("p50")
        if median is None:
            return None
        said = f"median of {short_subject(name)}, {work.text('name')}"
        if name != reference:
            ratio = work.part("verdicts").part(name).number("ratio")
            said += f"; {numerals.fixed(ratio, 2)} of the time of {short_subject(reference)}"
            return Figure("Latency", numerals.milliseconds(median), said)
        ratios = {
            other: ratio
            for other, verdict in work.named("verdicts")
            if other != reference and (ratio := verdict.number("ratio"))
        }
        slowest = max(ratios, key=lambda other: ratios[other], default=None)
        if slowest is not None:
            said += f"; {short_subject(slowest)} takes {ratios[slowest]:.2f} times as long"
        return Figure("Latency", numerals.milliseconds(median), said)
    return None


def _metric(evaluation: Facts, bundle: BundleFacts) -> Figure | None:
    """The metric that loses most."""
    entries = [
        metric
        for candidate in evaluation.parts("candidates")
        for metric in candidate.parts("metrics")
    ] or list(bundle.report.part("quantization").parts("accuracy"))
    worst = max(entries, key=lambda entry: entry.number("drop") or 0.0, default=None)
    if worst is None or "drop" not in worst:
        return None
    spread = numerals.interval(worst.numbers("interval"), lambda value: numerals.fixed(value, 2))
    value = worst.number("candidate")
    value = worst.number("int8") if value is None else value
    return Figure(
        (worst.text("title") or worst.text("metric") or "metric"),
        numerals.fixed(value, 2),
        f"{numerals.fixed(worst.number('drop'), 2)} points below the float model"
        + (f" ({spread} with 95 % confidence)" if spread else ""),
    )


def _fidelity(bundle: BundleFacts) -> Figure | None:
    quantization = bundle.report.part("quantization")
    if "sqnr_db" in quantization:
        low_high = numerals.interval(
            quantization.numbers("sqnr_interval"), lambda value: numerals.fixed(value, 1)
        )
        spread = f"{low_high} dB with 95 % confidence, " if low_high else ""
        texts = numerals.count(quantization.number("held_out_texts"))
        return Figure(
            "Signal to noise of the answers",
            numerals.decibels(quantization.number("sqnr_db")),
            f"{spread}on {texts} texts kept aside",
        )
    verdicts = bundle.report.part("verification").parts("targets")
    errors = [value for entry in verdicts if (value := entry.number("relative")) is not None]
    if not errors:
        return None
    return Figure(
        "Relative error of the answers",
        numerals.significant(max(errors), 2),
        "largest of all engines",
    )
