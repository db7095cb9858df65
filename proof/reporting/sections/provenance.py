"""Where the bundle comes from: environment, commands that make it again, files."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from .. import numerals
from ..build_command import build_command
from ..bundle_facts import BundleFacts
from ..documents import Documents
from ..tables import Table, columns


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The last sections."""

    environment: Table
    versions: Table
    commands: tuple[tuple[str, str], ...]
    digests: tuple[tuple[str, str], ...]
    files: Table
    notes: tuple[str, ...]


def make_provenance(bundle: BundleFacts, documents: Documents) -> Provenance:
    """Tell where, with what, and how the bundle was made."""
    manifest = bundle.manifest
    return Provenance(
        environment=_environment(bundle),
        versions=Table(
            caption="Versions it was built with",
            columns=columns("package|#version"),
            rows=sorted(
                [name, str(version)]
                for name, version in bundle.report.part("environment")
                .part("versions")
                .content.items()
            ),
        ),
        commands=_commands(bundle, documents),
        digests=(
            ("recipe", manifest.recipe_digest),
            ("model", manifest.model.digest),
            ("calibration", manifest.calibration or "none"),
        ),
        files=_files(bundle),
        notes=bundle.report.texts("notes"),
    )


def _environment(bundle: BundleFacts) -> Table:
    facts = bundle.report.part("environment")
    cpu = facts.part("cpu")
    gpus = [gpu.text("name") or "unnamed" for gpu in facts.parts("gpus")]
    rows = [
        ["System", facts.text("system") or numerals.DASH],
        ["Python", facts.text("python") or numerals.DASH],
        ["CPU", f"{cpu.text('model')}, {numerals.count(cpu.count('physical_cores'))} cores"],
        ["Instruction sets", ", ".join(cpu.texts("flags")) or numerals.DASH],
        ["GPUs", ", ".join(gpus) or "none"],
        ["Driver", facts.text("driver") or "none"],
        ["Load average at the build", numerals.fixed(facts.number("load_average"), 1)],
    ]
    return Table(caption="Machine it was built on", columns=columns("what|value"), rows=rows)


def _commands(bundle: BundleFacts, documents: Documents) -> tuple[tuple[str, str], ...]:
    build, is_whole = build_command(bundle.manifest, bundle.path)
    path = shlex.quote(bundle.path)
    said = "Build it again" if is_whole else "Build it again, with your own files for FILE"
    given = "".join(
        f" --{kind} {shlex.quote(facts.where)}"
        for kind, facts in documents.found.items()
        if Path(facts.where).suffix == ".json"
    )
    return (
        (said, build),
        ("Hash every file, and compare the engines with the model", f"fuselage verify {path}"),
        ("See what is in it", f"fuselage inspect {path} --full --all"),
        ("Answer a text", f'fuselage run {path} --text "..."'),
        ("Make this report again", f"fuselage report {path}{given} --out report.html"),
    )


def _files(bundle: BundleFacts) -> Table:
    return Table(
        caption="Every file of the bundle",
        columns=columns("file|#size|sha256"),
        rows=[
            [name, numerals.size(entry.bytes), entry.sha256]
            for name, entry in sorted(bundle.manifest.files.items())
        ],
    )
