"""``fuselage run``: text in, answers out."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import TextError
from .console import print_json, say
from .options import Fallback, Json, Target, Threads, Trust

if TYPE_CHECKING:
    from ..streaming.asking import Asker
    from ..streaming.rows import TextFile


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")],
    text: Annotated[list[str] | None, typer.Option(help="A text. Repeatable.")] = None,
    text_file: Annotated[
        Path | None,
        typer.Option(
            help=".jsonl, .csv, .tsv, .parquet, .arrow, or one text a line; - reads standard input."
        ),
    ] = None,
    text_column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Column of --text-file with the texts; give it twice for pairs, or for question "
            "and context. Default: text, or the only one.",
        ),
    ] = None,
    keep_column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Column to write beside each answer. Repeatable."),
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Question answering: asked of every text.")
    ] = None,
    target: Target = None,
    fallback: Fallback = None,
    out: Annotated[
        Path | None,
        typer.Option(help=".npy for vectors, .jsonl or .parquet for answers; default stdout."),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Do not go on where an interrupted run stopped.")
    ] = False,
    threads: Threads = 0,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Answer on text with the best engine of a bundle that runs here.

    Prints one JSON value a text: a vector, labels with scores, entities, an answer, fillings.
    With --text-file and --out memory does not grow with the file, and the same command goes on
    where an interrupted one stopped.
    """
    from ..streaming.outputs import check_out

    if out is not None:
        check_out(out)
    source = _source(text, text_file, text_column or (), keep_column or ())
    with _opened(bundle, question, target, fallback or (), threads, trust) as asker:
        if source is None or out is None:
            rows = _answer(asker, text or (), source, out, as_json)
        else:
            from .run_file import answer_file

            rows = {"rows": answer_file(asker, source, bundle, out, restart=restart)}
        if as_json:
            print_json({"target": asker.runtime.engine.target, "task": asker.runtime.task, **rows})


def _source(
    text: Sequence[str] | None, file: Path | None, columns: Sequence[str], kept: Sequence[str]
) -> TextFile | None:
    if text and file:
        raise TextError("give the texts with --text or with --text-file, not with both")
    if text and (columns or kept):
        raise TextError("--text-column and --keep-column are for --text-file")
    if text:
        return None
    if file is None:
        raise TextError("no text: give one with --text, a file with --text-file, or - for stdin")
    from ..streaming.rows import TextFile

    return TextFile(file, columns, kept)


@contextmanager
def _opened(
    bundle: Path,
    question: str | None,
    target: str | None,
    fallback: Sequence[str],
    threads: int,
    trust: bool,
) -> Iterator[Asker]:
    """Open a bundle and say what its engine has to say; `Engine.notes` tell fallbacks already."""
    from ... import pipeline
    from ...engines.choice import FallbackWarning
    from ..streaming.asking import Asker

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", FallbackWarning)
        runtime = pipeline(bundle, target=target, fallback=fallback, threads=threads, trust=trust)
    with runtime:
        for line in (*runtime.engine.notes, *(str(warning.message) for warning in caught)):
            say(f"note: {line}")
        if fallback and runtime.engine.passed_over:
            say(f"note: {runtime.engine.name} runs instead")
        yield Asker(
            runtime=runtime, question=question, told=lambda message: say(f"note: {message}")
        )


def _answer(
    asker: Asker, texts: Sequence[str], file: TextFile | None, out: Path | None, as_json: bool
) -> dict[str, Any]:
    """Answer the texts, or the file, chunk by chunk; for --json return all answers."""
    from ..streaming.chunks import chunks, chunks_of
    from ..streaming.outputs import json_lines, plain, write_whole

    kept = () if file is None else file.kept
    found: list[Any] = []
    parts = chunks_of(texts) if file is None else chunks(file)
    done = 0
    for chunk in parts:
        answers = asker(chunk)
        done = chunk.end
        if out is not None:
            write_whole(out, asker.runtime.task, chunk, answers)
            say(f"{chunk.end} answers written to {out}")
        if as_json:
            found += [plain(answer) for answer in answers]
        elif out is None:
            sys.stdout.writelines(json_lines(chunk, answers, kept))
    if file is not None:
        check_rows(file, done)
    return {"answers": found}


def check_rows(file: TextFile, rows: int) -> None:
    """Refuse a file without text, and say what was left out: answers are one a text."""
    if not rows:
        raise TextError(f"{file.name}: expected one text a line, got no text")
    if file.blanks:
        say(
            f"note: {file.name}: {file.blanks} blank lines were left out; answers are one a line "
            "of text"
        )
