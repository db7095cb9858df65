"""The exit code of verbs that judge, when they could not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ...errors import FuselageError
from .console import say_error

TROUBLE = 2
"""Nothing could be judged, as diff and cmp have it, because 1 says that a candidate failed."""

JUDGING = ("compare", "evaluate", "bench")
"""Verbs of which a script asks whether a candidate is good enough."""


@contextmanager
def trouble() -> Iterator[None]:
    """End with `TROUBLE` and one message where what is inside fails."""
    try:
        yield
    except FuselageError as error:
        say_error(str(error))
        raise typer.Exit(TROUBLE) from error
    except OSError as error:
        say_error(f"{error.filename or 'the system'}: {error.strerror or error}")
        raise typer.Exit(TROUBLE) from error
