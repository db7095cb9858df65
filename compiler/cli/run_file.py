"""``fuselage run --text-file FILE --out FILE``: progress, and what to do after an interruption."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import messages, say

if TYPE_CHECKING:
    from ..streaming.asking import Asker
    from ..streaming.rows import TextFile

_EVERY = 10.0
"""Seconds between two lines of progress where they cannot be overwritten."""


def answer_file(asker: Asker, file: TextFile, bundle: Path, out: Path, *, restart: bool) -> int:
    """Answer a file into another; an interruption says how to go on.

    Returns:
        Texts answered, those of interrupted runs included.
    """
    from ..streaming.outputs import output_of
    from ..streaming.resumable import ResumableRun
    from .run import check_rows

    output = output_of(out, asker.runtime.task, file.kept)
    setting = _setting(asker, file, bundle)
    work = ResumableRun(out, output, setting, restart=restart)
    progress = Progress(file)
    try:
        rows = work(file, asker, progress)
    except BaseException as error:
        progress.end()
        if not work.journal.rows:
            raise
        say(
            f"note: {work.journal.rows:,} answers are kept in {work.partial}; the same command "
            f"goes on behind them: {_command()}"
        )
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(130) from None
        raise
    progress.end()
    check_rows(file, rows)
    say(f"{rows:,} answers written to {out}")
    return rows


def _setting(asker: Asker, file: TextFile, bundle: Path) -> dict[str, Any]:
    """Everything that the answers depend on but the texts."""
    from ..streaming.bundle_digest import bundle_digest

    return {
        "the bundle": bundle_digest(bundle),
        "the engine": asker.runtime.engine.name,
        "--question": asker.question,
        "--keep-column": list(file.kept),
    }


def _command() -> str:
    words = [word for word in sys.argv[1:] if word != "--restart"]
    return shlex.join(["fuselage", *words])


class Progress:
    """One line that is overwritten on a terminal, a line now and then elsewhere.

    Args:
        file: that is read.
    """

    def __init__(self, file: TextFile) -> None:
        self._file = file
        self._began = time.monotonic()
        self._told = self._began
        self._first: int | None = None
        self._is_shown = False

    def __call__(self, rows: int) -> None:
        """Show how many texts are answered."""
        now = time.monotonic()
        if self._first is None:
            self._first = rows
            if rows:
                say(f"note: {rows:,} texts were answered before; going on behind them")
            return
        if now - self._told < (0.2 if messages.is_terminal else _EVERY):
            return
        self._told = now
        rate = (rows - self._first) / max(now - self._began, 1e-9)
        fraction = self._file.fraction
        share = "" if fraction is None else f", {fraction:.0%} of the file"
        line = f"{rows:,} texts answered{share}, {rate:,.0f} a second"
        if messages.is_terminal:
            self._is_shown = True
            messages.file.write(f"\r{line:<70}")
            messages.file.flush()
        else:
            say(line)

    def end(self) -> None:
        """Clear the line."""
        if self._is_shown:
            messages.file.write("\r" + " " * 70 + "\r")
            self._is_shown = False
