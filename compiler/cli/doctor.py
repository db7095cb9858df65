"""``fuselage doctor``: what is installed, and which targets build and run here."""

from __future__ import annotations

from dataclasses import asdict

from ...engines import host
from ...engines.targets import TARGETS, backend
from ...errors import FuselageError
from .console import print_json, print_table, say
from .options import Json


def doctor(as_json: Json = False) -> None:
    """Say what this machine can do and what is missing for the rest."""
    here = host.probe()
    gpus = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in here.gpus) or "none"
    say(f"{here.system}, Python {here.python}, {here.cpu.model or here.cpu.arch}")
    driver = here.driver or "none"
    say(f"{here.cpu.physical_cores} cores for this process, GPUs: {gpus}, NVIDIA driver: {driver}")
    print_table("packages", ("package", "version"), list(here.packages.items()))
    targets = {name: _blockers(name) for name in TARGETS}
    rows = [(name, build or "yes", run or "yes") for name, (build, run) in targets.items()]
    print_table("targets", ("target", "builds here", "runs here"), rows)
    if as_json:
        facts = {name: {"build": build, "run": run} for name, (build, run) in targets.items()}
        print_json({"host": asdict(here), "blockers": facts})


def _blockers(target: str) -> tuple[str | None, str | None]:
    try:
        chosen = backend(target)
        return chosen.build_blocker(), chosen.run_blocker()
    except FuselageError as error:
        return str(error), str(error)
