"""A table as every section makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True)
class Column:
    """A heading; numbers are set to the right."""

    name: str
    numeric: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under headings.

    Attributes:
        caption: what the table shows; read out before it.
        columns: first to last; the first names the row.
        rows: text, or Markup that is already safe.
        sortable: whether a click on a heading sorts.
        marked: rows to highlight.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[str | Markup]]
    sortable: bool = False
    marked: frozenset[int] = field(default_factory=frozenset)


def columns(words: str) -> tuple[Column, ...]:
    """Headings from ``name|#number|...``: those behind a ``#`` are numbers."""
    return tuple(Column(word.lstrip("#"), word.startswith("#")) for word in words.split("|"))
