"""What every verb prints with: messages to stderr, results to stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

_WIDEST = 10_000
"""Columns that a table may take in a file or a pipe; it takes as many as it needs."""

messages = Console(stderr=True, highlight=False, soft_wrap=True)
results = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDEST)


def say(text: str) -> None:
    """One line for the person who watches."""
    messages.print(escape(text))


def say_error(text: str) -> None:
    """The one message of a failure."""
    messages.print(f"[bold red]error:[/] {escape(text)}")


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line, the last on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    cut: Collection[str] | None = None,
) -> None:
    """A table on stdout; numbers are right-aligned, None is a dash.

    Args:
        title: above it.
        columns: their names.
        rows: a value a column.
        cut: keep every row on one line, by cutting cells of these columns where the terminal is
            too narrow; None to continue cells below. Elsewhere a table is as wide as it needs to
            be.
    """
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        if cut is None:
            table.add_column(column, justify=justify, overflow="fold", no_wrap=index == 0)
        else:
            is_whole = column not in cut
            table.add_column(column, justify=justify, overflow="ellipsis", no_wrap=is_whole)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    results.print(table)


def print_fusion(title: str, fusion: Mapping[str, Any]) -> None:
    """The blocks of each kind that was found, or a line when there are none."""
    rows = [
        (kind, entry["found"], entry["fused"], entry["found"] - entry["fused"])
        for kind, entry in fusion.items()
        if entry["found"]
    ]
    if rows:
        print_table(title, ("block", "found", "fused", "left"), rows)
    else:
        say(f"{title}: no block of a known kind was found")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


class Watch:
    """A listener that shows a spinner a stage, a bar where the stage can be counted.

    Args:
        quiet: show decisions only.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._progress: Progress | None = None

    def started(self, stage: str) -> None:
        """Show the stage."""
        if self._quiet or not messages.is_terminal:
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=messages, transient=True)
        self._progress.add_task(stage, total=None)
        self._progress.start()

    def advanced(self, done: int, total: int) -> None:
        """Fill the bar."""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, total=total)

    def ended(self, stage: str, seconds: float) -> None:
        """Replace the spinner by a line."""
        self.close()
        if not self._quiet:
            messages.print(f"  [green]done[/] {escape(stage)} [dim]{seconds:.1f} s[/]")

    def note(self, line: str) -> None:
        """Show a decision."""
        messages.print(f"  [yellow]note[/] {escape(line)}")

    def close(self) -> None:
        """Stop the spinner; also after a failure."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
