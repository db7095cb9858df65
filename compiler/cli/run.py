"""``fuselage run``: text in, answers out."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import TextError
from .console import print_json, say
from .options import Fallback, Json, Target, Threads, Trust

_KINDS = "expected .npy (vectors of an embedding bundle) or .jsonl"


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")],
    text: Annotated[list[str] | None, typer.Option(help="A text. Repeatable.")] = None,
    text_file: Annotated[
        Path | None, typer.Option(help="One text a line; - reads standard input.")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Question answering: asked of every text.")
    ] = None,
    target: Target = None,
    fallback: Fallback = None,
    out: Annotated[
        Path | None, typer.Option(help=".npy for vectors, .jsonl for answers; default stdout.")
    ] = None,
    threads: Threads = 0,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Answer on text with the best engine of a bundle that runs here.

    Prints one JSON value a text: a vector, labels with scores, entities, an answer, fillings.
    """
    from ... import pipeline
    from ...engines.choice import FallbackWarning

    if out is not None:
        _check_out(out)
    texts = _texts(text, text_file)
    with (
        _every_warning(FallbackWarning) as caught,
        pipeline(
            bundle, target=target, fallback=fallback or (), threads=threads, trust=trust
        ) as runtime,
    ):
        for line in runtime.engine.notes:
            say(f"note: {line}")
        if fallback and runtime.engine.passed_over:
            say(f"note: {runtime.engine.name} runs instead")
        answers = runtime(_inputs(texts, question, runtime.task))
        used = runtime.engine.target
    for warning in caught:
        say(f"note: {warning.message}")
    rows = [_plain(answer) for answer in answers]
    if out is not None:
        _write(out, answers, rows)
        say(f"{len(rows)} answers written to {out}")
    if as_json:
        print_json({"target": used, "task": runtime.task, "answers": rows})
    elif out is None:
        for row in rows:
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def _every_warning(told: type[Warning]) -> Iterator[list[warnings.WarningMessage]]:
    """Collect warnings, but for those that `Engine.notes` tell already."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", told)
        yield caught


def _texts(text: list[str] | None, file: Path | None) -> list[str]:
    if text and file:
        raise TextError("give the texts with --text or with --text-file, not with both")
    if text:
        return text
    if file is None:
        raise TextError("no text: give one with --text, a file with --text-file, or - for stdin")
    # Bytes, because the encoding of stdin follows the locale; a byte order mark is dropped.
    content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    try:
        lines = content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{file}: expected UTF-8, got {error.reason} at byte {error.start}; "
            "convert the file to UTF-8"
        ) from error
    return _filled(lines, file)


def _filled(lines: list[str], file: Path) -> list[str]:
    """Lines that hold text; a blank one in between is said, because answers then shift."""
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not filled:
        raise TextError(f"{file}: expected one text a line, got no text")
    blank = filled[-1][0] - len(filled)
    if blank:
        say(f"note: {file}: {blank} blank lines were left out; answers are one a line of text")
    return [line for _, line in filled]


def _inputs(texts: list[str], question: str | None, task: str) -> Any:
    if task != "question-answering":
        if question is not None:
            raise TextError(f"--question is for question-answering bundles, this one is {task}")
        return texts
    if question is None:
        raise TextError("this bundle answers questions: give one with --question")
    return [{"question": question, "context": text} for text in texts]


def _plain(answer: Any) -> Any:
    import numpy as np

    if isinstance(answer, np.ndarray):
        return answer.tolist()
    if isinstance(answer, np.generic):
        return answer.item()
    if isinstance(answer, dict):
        return {key: _plain(value) for key, value in answer.items()}
    return [_plain(item) for item in answer] if isinstance(answer, list | tuple) else answer


def _check_out(out: Path) -> None:
    """Refuse a file that cannot be written before the work for it starts."""
    if out.suffix not in (".npy", ".jsonl"):
        raise TextError(f"{out}: {_KINDS}, got {out.suffix!r}")
    if out.is_dir() or not out.parent.is_dir():
        found = f"{out} is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise TextError(f"{out}: expected a file to write in a folder that exists, but {found}")


def _write(out: Path, answers: Any, rows: list[Any]) -> None:
    """Write to a temporary name first, so that a crash leaves no half file."""
    import numpy as np

    partial = out.with_name(f".{out.name}.partial")
    try:
        if out.suffix == ".npy" and isinstance(answers, np.ndarray):
            with partial.open("wb") as file:
                np.save(file, answers, allow_pickle=False)
        elif out.suffix == ".jsonl":
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            partial.write_text("".join(lines), encoding="utf-8")
        else:
            raise TextError(f"{out}: {_KINDS}, got {out.suffix!r} for answers that are not vectors")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
