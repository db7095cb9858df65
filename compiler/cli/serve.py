"""``fuselage serve``: bundles over HTTP."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import FuselageError, MissingPackageError
from .console import say
from .options import Target, Threads, Trust

if TYPE_CHECKING:
    from ...serving.http.settings import Settings

_KEY = "FUSELAGE_API_KEY"
_MIB = 1 << 20


def serve(
    bundles: Annotated[
        list[Path] | None, typer.Argument(metavar="BUNDLE...", help="Folders of bundles.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=BUNDLE",
            help="Serve a bundle under this name; default: its folder's. Repeatable.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address; 0.0.0.0 lets every machine in, then give a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    target: Target = None,
    threads: Threads = 0,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Requests of a model at once; more get 503.")
    ] = 256,
    max_body: Annotated[
        float, typer.Option(min=0.001, metavar="MIB", help="Of a request; more gets 413.")
    ] = 8.0,
    max_texts: Annotated[int, typer.Option(min=1, help="Of a request.")] = 1024,
    timeout: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="Of a request; then 504.")
    ] = 30.0,
    drain: Annotated[
        float,
        typer.Option(min=0.001, metavar="SECONDS", help="For requests under way at SIGTERM."),
    ] = 30.0,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"Key that clients must send; or in {_KEY}."),
    ] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log/--no-access-log", help="A JSON line a request.")
    ] = True,
    trust: Trust = False,
) -> None:
    """Answer requests over HTTP until told to stop (SIGTERM, Ctrl-C).

    Speaks the Open Inference Protocol v2 (tritonclient), OpenAI's /v1/embeddings, /embed and
    /predict; /docs on the server shows them.
    """
    try:
        from ...serving.http.app import Application
        from ...serving.http.metrics import Metrics
        from ...serving.http.models import Opening, open_models
        from ...serving.http.server import bind
        from ...serving.http.server import serve as run_server
        from ...serving.http.settings import Settings
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "starlette", "serve", "serving HTTP") from error
    settings = Settings(
        host=host,
        port=port,
        max_queue=max_queue,
        max_body=int(max_body * _MIB),
        max_texts=max_texts,
        timeout=timeout,
        drain=drain,
        key=_key(api_key_file),
        access_log=access_log,
    )
    wanted = _named(bundles or [], name or [])
    listener, metrics = bind(settings), Metrics()
    try:
        models = open_models(
            wanted, Opening(target=target, threads=threads, trust=trust), settings, metrics
        )
    except BaseException:
        listener.close()
        raise
    for model in models:
        for line in model.runtime.engine.notes:
            say(f"note: {model.name}: {line}")
    _warn_of_strangers(settings)
    run_server(Application(models, settings, metrics), listener, _announce)


def _announce(address: str) -> None:
    sys.stdout.write(f"serving on {address}\n")
    sys.stdout.flush()


def _warn_of_strangers(settings: Settings) -> None:
    if settings.host not in ("127.0.0.1", "::1", "localhost") and settings.key is None:
        say(
            f"note: {settings.host} may be reached from other machines, and no API key is asked "
            f"for; give one with --api-key-file or {_KEY}"
        )


def _key(file: Path | None) -> str | None:
    from ...serving.http.settings import read_key

    if file is not None:
        return read_key(file)
    return os.environ.pop(_KEY, None) or None  # popped: child processes have no use for it


def _named(bundles: list[Path], pairs: list[str]) -> dict[str, Path]:
    """Every bundle under its name, none twice."""
    named = [(path.resolve().name, path) for path in bundles]
    for pair in pairs:
        name, _, folder = pair.partition("=")
        if not (name and folder):
            raise FuselageError(f"--name: expected NAME=BUNDLE, got {pair!r}")
        named.append((name, Path(folder)))
    if not named:
        raise FuselageError("no bundle: give the folder of one, or --name NAME=BUNDLE")
    found: dict[str, Path] = {}
    for name, path in named:
        if name in found:
            raise FuselageError(
                f"{found[name]} and {path} are both named {name!r}; "
                f"give one another name with --name NAME={path}"
            )
        found[name] = path
    return found
