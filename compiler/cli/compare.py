"""``fuselage compare``: whether candidates answer like a reference, and where they do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import print_json, print_table, results, say
from .documents import check_document, write_document
from .inputs import read_texts
from .options import Document, Json, Quiet, TextColumns, Texts, Threads, Trust
from .trouble import trouble

if TYPE_CHECKING:
    from ...proof.comparing.compare import CandidateResult, Comparison
    from ...proof.comparing.sources import Asked

_SUBJECT = "torch:MODEL[@REVISION], torch:random:MODEL, ort:FILE, bundle:DIR[#TARGET], results:FILE"
_COLUMNS = ("candidate", "output", "relative", "max", "p99.9", "cos mean", "cos min", "SNR dB")
_LOGIT_COLUMNS = ("top-1", "top-5", "KL")


def compare(
    reference: Annotated[str, typer.Argument(metavar="REF", help=f"What is right: {_SUBJECT}.")],
    candidates: Annotated[
        list[str],
        typer.Argument(
            metavar="CANDIDATE...",
            help="What is compared with it, spelled alike. A bundle without #TARGET stands for "
            "every engine of it that runs here.",
        ),
    ],
    text: Texts = None,
    text_column: TextColumns = None,
    text_limit: Annotated[
        int | None, typer.Option(min=1, help="Texts drawn from --text at most; default 64.")
    ] = None,
    gate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML with the bounds of each output.")
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[OUTPUT:]METRIC=NUMBER",
            help="A bound, for example logits:relative=1e-3. Repeatable; wins over --gate.",
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="Task of torch:MODEL; auto: by architecture.")] = "auto",
    out: Document = None,
    save_reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Keep the reference's answers, for results:FILE."),
    ] = None,
    save_polygraphy: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write inputs, answers and a compare.sh for Polygraphy."),
    ] = None,
    locate: Annotated[
        bool, typer.Option(help="Look for the first layer that is off when a candidate fails.")
    ] = True,
    threads: Threads = 0,
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare what candidates answer with what a reference answers.

    On the user's texts and on cases that tend to break engines: one token, the longest text, rows
    of padding, ragged masks, the edges of the profile. Exits with 0 when every bound holds, with 1
    when one does not, and with 2 when nothing could be compared.
    """
    with trouble():
        check_document(out)
        from ...proof.comparing.gates import read_gates
        from ...proof.comparing.run import ComparisonRequest, run_comparison
        from ...proof.subjects.open import SubjectOptions

        request = ComparisonRequest(
            reference=reference,
            candidates=candidates,
            asked=_asked(text, text_column, text_limit),
            gates=read_gates(gate, tolerance or ()),
            options=SubjectOptions(threads=threads, task=task, trust=trust),
            save_reference=save_reference,
            save_polygraphy=save_polygraphy,
            locate=locate,
        )
        comparison = run_comparison(request, say)
        document = comparison.as_document() if out is not None or as_json else {}
        if out is not None:
            write_document(out, document)
    _show(comparison, quiet=quiet)
    if out is not None:
        say(f"written to {out}")
    if as_json:
        print_json(document)
    if not comparison.passed:
        raise typer.Exit(1)


def _asked(text: list[Path] | None, columns: list[str] | None, limit: int | None) -> Asked:
    from ...proof.comparing.sources import TEXT_LIMIT, Asked

    drawn = read_texts(text, columns, limit or (TEXT_LIMIT if text else None))
    return Asked() if drawn is None else Asked(texts=drawn.texts)


def _show(comparison: Comparison, *, quiet: bool) -> None:
    for candidate in comparison.candidates:
        _show_verdict(candidate, comparison)
    if quiet:
        return
    every = [output for candidate in comparison.candidates for output in candidate.outputs]
    logits = any(output.metrics["kl"] is not None for output in every)
    columns = (*_COLUMNS, *(_LOGIT_COLUMNS if logits else ()))
    rows = [
        _row(f"{comparison.reference} itself, in float64", name, metrics)[: len(columns)]
        for name, metrics in comparison.noise.items()
    ]
    for candidate in comparison.candidates:
        rows += [
            _row(candidate.name, output.name, output.metrics)[: len(columns)]
            for output in candidate.outputs
        ]
    print_table(f"worst of {len(comparison.cases)} cases, means over them", columns, rows)
    for note in comparison.notes:
        say(f"note: {note}")


def _show_verdict(candidate: CandidateResult, comparison: Comparison) -> None:
    precision = f" ({candidate.precision})" if candidate.precision else ""
    name = f"{candidate.name}{precision}"
    if candidate.passed:
        results.print(f"[green]PASS[/] {_escaped(name)} answers like {comparison.reference}")
    else:
        results.print(f"[bold red]FAIL[/] {_escaped(f'{name}: {candidate.failures[0]}')}")
        for failure in candidate.failures[1:]:
            say(f"  also: {failure}")
        if candidate.divergence is not None:
            results.print(_escaped(f"  first layer: {candidate.divergence}"))
    for note in candidate.notes:
        say(f"  note: {note}")
    for line in _stability(candidate):
        say(f"  {line}")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _stability(candidate: CandidateResult) -> Iterator[str]:
    runs = candidate.determinism
    if not runs.identical:
        yield f"{runs.runs} runs of the same feeds differ by up to {runs.max_abs:.2g}"
    sway = candidate.invariance
    for words, found in (("in a batch", sway.in_batch), ("padded further", sway.padded)):
        for output, metrics in found.items():
            if metrics["relative"]:
                yield (
                    f"{output} of {sway.rows} texts {words}: relative change at most "
                    f"{metrics['relative']:.1e}"
                )


def _row(candidate: str, output: str, metrics: dict[str, float | None]) -> tuple[Any, ...]:
    small = [_spelled(metrics[name], ".2e") for name in ("relative", "max_abs", "p999")]
    cosines = [_spelled(metrics[name], ".7f") for name in ("cosine_mean", "cosine_min")]
    rest = [_spelled(metrics["snr_db"], ".1f")]
    logits = [_spelled(metrics[name], ".4f") for name in ("top_1", "top_5")]
    return candidate, output, *small, *cosines, *rest, *logits, _spelled(metrics["kl"], ".2e")


def _spelled(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)
