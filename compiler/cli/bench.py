"""``fuselage bench``: how fast bundles, graphs and models are, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Watch, print_json, print_table, say
from .documents import check_document, write_document
from .options import Document, Json, Quiet, Threads, Trust
from .trouble import trouble

if TYPE_CHECKING:
    from ...proof.timing.results import Benchmark, WorkResult


def bench(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="SUBJECT...",
            help="Folder of a bundle (DIR or DIR#TARGET), an .onnx file, or torch:MODEL. The first "
            "is what the others are compared with.",
        ),
    ],
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            "--baselines",
            metavar="NAME",
            help="Time these too: torch-eager, torch-sdpa, torch-compile, ort, or all. Repeatable.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="What baselines run. Default: what the first bundle is of.")
    ] = None,
    task: Annotated[str, typer.Option(help="Of torch: subjects and --model.")] = "auto",
    mode: Annotated[
        str, typer.Option(help="engine (arrays), e2e (with copies), or pipeline (texts).")
    ] = "engine",
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BxS,...",
            help="Such as 1x128,8x128; 8 alone is eight texts of their own lengths. Default: the "
            "least and the best batch of the first bundle.",
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Texts whose lengths and tokens are used. Repeatable."),
    ] = None,
    text_column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Column of --text with texts; twice for pairs."),
    ] = None,
    clients: Annotated[int, typer.Option(min=1, help="Threads that send calls.")] = 1,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="PER_SECOND",
            help="Open load: calls come at random at this rate, answered or not.",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Timed of each candidate, at least.")] = 3.0,
    iterations: Annotated[int, typer.Option(min=1, help="Calls timed, at least.")] = 10,
    threads: Threads = 0,
    floor: Annotated[
        float, typer.Option(metavar="PERCENT", help="Differences below it are no difference.")
    ] = 2.0,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure peak memory in new processes.")
    ] = True,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="On a busy machine, print figures and no verdict.")
    ] = False,
    trust: Trust = False,
    out: Document = None,
    trtexec_json: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write the times as trtexec --exportTimes does."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Time candidates in rounds of random order and say which differences are more than noise.

    Exits with 2 without figures when others use the machine; --anyway prints figures alone.
    """
    from ...proof.timing.bench import run_bench
    from ...proof.timing.race import Rules
    from ...proof.timing.request import Request, checked_mode

    with trouble():
        check_document(out)
        check_document(trtexec_json)
        request = Request(
            subjects=tuple(subjects),
            baselines=tuple(baseline or ()),
            model=model,
            task=task,
            mode=checked_mode(mode),
            shapes=tuple(shapes or ()),
            texts=tuple(text or ()),
            columns=tuple(text_column or ()),
            clients=clients,
            rate=rate,
            rules=Rules(seconds=seconds, iterations=iterations),
            threads=threads,
            floor=floor / 100,
            memory=memory,
            anyway=anyway,
            trust=trust,
        )
        watch = Watch(quiet=quiet)

        def show(what: str) -> None:
            watch.close()
            watch.started(what)

        try:
            found = run_bench(request, show)
        finally:
            watch.close()
    _print(found)
    document = found.document()
    if out is not None:
        write_document(out, document)
        say(f"written to {out}")
    if trtexec_json is not None:
        _write_times(found, trtexec_json)
    if as_json:
        print_json(document)


def _print(found: Benchmark) -> None:
    """Verdicts first, then figures, then the machine."""
    from ...proof.timing import wording
    from ...proof.timing.machine import head_lines

    print_table("verdict", wording.VERDICTS, wording.verdict_rows(found))
    for line in wording.saturation_lines(found):
        say(line)
    for result in found.results:
        print_table(_title(result), wording.COLUMNS, wording.candidate_rows(result))
    print_table("resources", wording.RESOURCES, wording.resource_rows(found))
    for name, reason in found.skipped.items():
        say(f"{name} was left out: {reason}")
    for note in found.notes:
        say(f"note: {note}")
    for line in (*head_lines(found.environment), wording.busy_line(found)):
        say(line)


def _title(result: WorkResult) -> str:
    work = result.work
    fill = "" if work.fill is None else f", {work.fill:.0%} filled"
    return f"{work.name}: {work.mean_tokens:.0f} real tokens a call{fill}"


def _write_times(found: Benchmark, path: Path) -> None:
    from ...proof.timing.trtexec import times_files, write_times

    for file, entries in times_files(found, path).items():
        write_times(file, entries)
        say(f"times written to {file}")
