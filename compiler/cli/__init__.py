"""The command line: one verb a file, each with a function of the verb's name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer

from ...errors import FuselageError
from .bench import bench
from .bisect import bisect
from .build import build
from .cache import cache
from .compare import compare
from .console import results, say_error
from .doctor import doctor
from .evaluate import evaluate
from .explain import explain
from .export import export
from .inspect import inspect
from .lint import lint
from .optimize import optimize
from .rebuild import rebuild
from .refit import refit
from .report import report
from .run import run as run_verb
from .serve import serve
from .tune import tune
from .verify import verify

app = typer.Typer(
    name="fuselage",
    invoke_without_command=True,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Show it.")] = False,
) -> None:
    """Turn a Hugging Face transformer into a verified inference engine."""
    if version:
        results.print(f"fuselage {metadata.version('fuselage')}")
        raise typer.Exit


app.command("build")(build)
app.command("run")(run_verb)
app.command("rebuild")(rebuild)
app.command("refit")(refit)
app.command("report")(report)
app.command("export")(export)
app.command("optimize")(optimize)
app.command("explain")(explain)
app.command("lint")(lint)
app.command("bisect")(bisect)
app.command("inspect")(inspect)
app.command("bench")(bench)
app.command("compare")(compare)
app.command("doctor")(doctor)
app.command("evaluate")(evaluate)
app.command("serve")(serve)
app.command("tune")(tune)
app.command("verify")(verify)
app.add_typer(cache, name="cache")


_INTERRUPTED = 130


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        0 on success, 1 on an error of fuselage or the operating system, 2 on wrong usage, and of
        verbs that judge when they could not, 130 when interrupted.
    """
    try:
        code = app(list(arguments), standalone_mode=False)
    except FuselageError as error:
        say_error(str(error))
        return 1
    except OSError as error:
        say_error(f"{error.filename or 'the system'}: {error.strerror or error}")
        return 1
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        return _usage_error(error)
    # typer answers an interrupt or an early exit with a number instead of an exception.
    if code == _INTERRUPTED:
        say_error("interrupted; nothing half-written was left")
    return code if isinstance(code, int) else 0


def _usage_error(error: Exception) -> int:
    """Show click's errors as click does; anything else is a bug and keeps its traceback."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return int(getattr(error, "exit_code", 2))
