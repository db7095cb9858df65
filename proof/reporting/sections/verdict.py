"""The verdict: does it answer like the model, what is it worth, and what was not checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import numerals
from ..bundle_facts import BundleFacts
from ..documents import Documents, command_for, missing_documents
from ..reader import Facts
from ..subject_names import concerns, documents_about, short_subject
from ..tables import Table, columns

ENGINE_RAN = "engine"
"""What ``verification.targets[].subject`` says when the engine itself answered."""


@dataclass(frozen=True)
class Figure:
    """One number that decides, with what it means."""

    name: str
    value: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The top of the report.

    Attributes:
        tone: ``good``, ``partly`` or ``bad``.
        headline: the answer in one sentence.
        lede: what it rests on.
        figures: at most four.
        targets: a row an engine.
        open_points: what was not verified, and the command that would.
    """

    tone: str
    headline: str
    lede: str
    figures: tuple[Figure, ...]
    targets: Table
    open_points: tuple[tuple[str, str], ...]


def make_verdict(bundle: BundleFacts, documents: Documents) -> Verdict:
    """Judge a bundle by what its report and the documents about it say."""
    strangers = set(documents.found)
    documents = documents_about(bundle, documents)
    strangers -= set(documents.found)
    verification = bundle.report.part("verification")
    verdicts = verification.parts("targets")
    ran = [entry for entry in verdicts if entry.text("subject") == ENGINE_RAN]
    passed = bool(verification.flag("passed")) and documents.comparison.flag("passed") is not False
    tone = "bad" if not passed else "good" if len(ran) == len(verdicts) else "partly"
    headline = {
        "bad": "It does not answer like the model",
        "partly": f"It answers like the model on {_and(_names(ran))}",
        "good": "It answers like the model",
    }[tone]
    if tone == "partly" and not ran:
        headline = "Its graph answers like the model; no engine has run"
    return Verdict(
        tone=tone,
        headline=headline,
        lede=_lede(bundle, verdicts, ran),
        figures=tuple(_figures(bundle, documents)),
        targets=_targets(bundle, verdicts),
        open_points=(
            *_open_points(bundle, documents, verdicts),
            *(
                (f"The {kind} given is not of this bundle.", "")
                for kind in sorted(strangers)
                if not bundle.label
            ),
        ),
    )


def _lede(bundle: BundleFacts, verdicts: Sequence[Facts], ran: Sequence[Facts]) -> str:
    weights = "" if bundle.manifest.weights == "pretrained" else ", with random weights"
    who = f"{bundle.manifest.model.id}{weights}, for {bundle.manifest.task.replace('-', ' ')}"
    if not verdicts:
        return f"{who}. The build compared nothing."
    best = (ran or verdicts)[0]
    reference = bundle.report.part("verification").text("reference") or "the model"
    failed = [entry for entry in verdicts if entry.flag("passed") is False]
    if failed:
        reasons = "; ".join(
            f"{e.text('target')}: {e.text('reason') or 'out of bounds'}" for e in failed
        )
        return f"{who}. Against {reference}: {reasons}."
    return (
        f"{who}. On {numerals.count(best.count('texts'))} built-in texts the "
        f"{best.text('precision')} answers of {best.text('target')} stay within their bounds of "
        f"{reference}: mean cosine {numerals.cosine(best.number('cosine_mean'))}, least "
        f"{numerals.cosine(best.number('cosine_min'))}."
    )


def _figures(bundle: BundleFacts, documents: Documents) -> list[Figure]:
    figures = [
        _precision(bundle),
        _size(bundle),
        _speed(bundle, documents["benchmark"]),
        _fidelity(bundle),
        _metric(documents["evaluation"], bundle),
    ]
    return [figure for figure in figures if figure is not None]


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


def _targets(bundle: BundleFacts, verdicts: Sequence[Facts]) -> Table:
    by_name = {entry.text("target"): entry for entry in verdicts}
    weights = bundle.report.part("model").number("weight_bytes")
    rows = []
    for name, entry in bundle.report.named("targets"):
        verdict = by_name.get(name, Facts({}, ""))
        size = entry.number("bytes")
        rows.append(
            [
                name,
                entry.text("precision") or numerals.DASH,
                numerals.size(size),
                numerals.percent(size / weights) if size and weights else numerals.DASH,
                numerals.cosine(verdict.number("cosine_mean")),
                numerals.cosine(verdict.number("cosine_min")),
                numerals.percent(verdict.number("relative")),
                "engine" if verdict.text("subject") == ENGINE_RAN else "graph only",
                {True: "passed", False: "failed", None: numerals.DASH}[verdict.flag("passed")],
            ]
        )
    return Table(
        caption="Each engine against the model",
        columns=columns(
            "engine|precision|#size|#of the model|#mean cosine|#least cosine|#relative error|"
            "what ran|verdict"
        ),
        rows=rows,
    )


def _open_points(
    bundle: BundleFacts, documents: Documents, verdicts: Sequence[Facts]
) -> list[tuple[str, str]]:
    """What nobody checked: a sentence, and the command that would check it."""
    here = bundle.path
    points = [
        (
            f"The engine {entry.text('target')} has not run: {entry.text('subject')}.",
            f"fuselage verify {here} --target {entry.text('target')}",
        )
        for entry in verdicts
        if entry.text("subject") != ENGINE_RAN
    ]
    numbers = bundle.report.part("numbers")
    if numbers.text("verify") == "off":
        points.append(("The passes were not held to the model's numbers (--verify off).", ""))
    points += [(f"{text}.", "") for text in numbers.texts("not_checked")]
    if bundle.manifest.weights == "random":
        points.append(
            ("The weights are random: no figure here says how accurate the model is.", "")
        )
    if bundle.report.part("quantization").text("source") == "default corpus":
        points.append(
            ("The ranges come from the texts that ship with fuselage, not from yours.",
             f"fuselage build {bundle.manifest.model.id} --out {here} --text FILE")
        )  # fmt: skip
    if documents["benchmark"].flag("concluded") is False:
        points.append(("The benchmark ran on a busy machine, so it concludes nothing.", ""))
    costs = documents["cost-model"]
    if costs and "measured_ms" not in costs.part("totals"):
        command = f"{command_for('cost-model', here, '')} --measure"
        points.append(("Operations were counted, but no node was timed.", command))
    missing = missing_documents(documents, here, bundle.manifest.model.id)
    return points + list(missing.values())


def _names(entries: Sequence[Facts]) -> list[str]:
    return [name for entry in entries if (name := entry.text("target"))]


def _and(words: Sequence[str]) -> str:
    return (
        words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
    )
