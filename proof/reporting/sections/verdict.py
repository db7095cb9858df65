"""The verdict: does it answer like the model, what is it worth, and what was not checked."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from .. import numerals
from ..build_command import model_name, reference_name
from ..bundle_facts import BundleFacts
from ..documents import Documents, command_for, missing_documents
from ..reader import Facts
from ..subject_names import documents_about
from ..tables import Table, columns
from .key_figures import Figure, key_figures

ENGINE_RAN = "engine"
"""What ``verification.targets[].subject`` says when the engine itself answered."""


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
        figures=key_figures(bundle, documents),
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
    here, reference = bundle.path, reference_name(bundle.manifest)
    points = [
        (
            f"The engine {entry.text('target')} has not run: {entry.text('subject')}.",
            f"fuselage compare {shlex.quote(reference)} bundle:{here}#{entry.text('target')}",
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
             f"fuselage build {model_name(bundle.manifest)} --out {here} --text FILE")
        )  # fmt: skip
    if documents["benchmark"].flag("concluded") is False:
        points.append(("The benchmark ran on a busy machine, so it concludes nothing.", ""))
    costs = documents["cost-model"]
    if costs and "measured_ms" not in costs.part("totals"):
        command = command_for("cost-model", here, "")
        points.append(("Operations were counted, but no node was timed.", command))
    missing = missing_documents(documents, here, reference)
    return points + list(missing.values())


def _names(entries: Sequence[Facts]) -> list[str]:
    return [name for entry in entries if (name := entry.text("target"))]


def _and(words: Sequence[str]) -> str:
    return (
        words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
    )
