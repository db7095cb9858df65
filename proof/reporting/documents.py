"""The documents beside a bundle: comparison, evaluation, benchmark, cost model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import FuselageError
from .reader import Facts

SCHEMA = 1
_LARGEST = 64 << 20


@dataclass(frozen=True)
class Kind:
    """What a document is for, how one is made, and the keys without which it says nothing."""

    key: str
    missing: str
    command: str
    needed: tuple[str, ...]


KINDS = (
    Kind(
        "comparison",
        "No comparison beyond the build's ten texts: no adversarial cases, no noise floor",
        "fuselage compare {reference} bundle:{bundle} --out comparison.json",
        ("reference", "candidates", "cases"),
    ),
    Kind(
        "evaluation",
        "How well it does its task was not measured",
        "fuselage evaluate {bundle} --data FILE --out evaluation.json",
        ("reference", "candidates"),
    ),
    Kind(
        "benchmark",
        "Speed against other runtimes was not measured",
        "fuselage bench {bundle} --out benchmark.json",
        ("works",),
    ),
    Kind(
        "cost-model",
        "Where the time goes was not modelled",
        "fuselage inspect {bundle} --costs --measure --out cost-model.json",
        ("nodes", "totals"),
    ),
)
_BY_KEY = {kind.key: kind for kind in KINDS}


@dataclass(frozen=True)
class Documents:
    """What was handed to the report.

    Attributes:
        found: kind -> its content.
    """

    found: Mapping[str, Facts] = field(default_factory=dict)

    def __getitem__(self, kind: str) -> Facts:
        """A document; an empty one when it was not given."""
        return self.found.get(kind, Facts({}, kind))

    @property
    def comparison(self) -> Facts:
        """Of `fuselage compare`."""
        return self["comparison"]


def missing_documents(
    documents: Documents, bundle: str, reference: str
) -> dict[str, tuple[str, str]]:
    """Kind -> what is not known because its document is missing, and the command that makes it."""
    return {
        kind.key: (f"{kind.missing}.", command_for(kind.key, bundle, reference))
        for kind in KINDS
        if not documents[kind.key]
    }


def command_for(kind: str, bundle: str, reference: str) -> str:
    """The command that makes a document."""
    words = {"bundle": shlex.quote(bundle), "reference": shlex.quote(reference)}
    return _BY_KEY[kind].command.format(**words)


def read_documents(paths: Mapping[str, Path | None]) -> Documents:
    """Read the documents that were given.

    Args:
        paths: kind -> file, or None.

    Raises:
        FuselageError: when a file is missing, no JSON, or of another kind or schema.
    """
    return Documents({kind: _read(path, kind) for kind, path in paths.items() if path is not None})


def _read(path: Path, kind: str) -> Facts:
    command = command_for(kind, "BUNDLE", "torch:MODEL")
    advice = f"make one with: {command}"
    if not path.is_file():
        raise FuselageError(f"{path}: expected a {kind} document, found no file; {advice}")
    if path.stat().st_size > _LARGEST:
        raise FuselageError(f"{path}: expected a {kind} document, got more than 64 MB; {advice}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FuselageError(f"{path}: expected JSON, got {error}; {advice}") from error
    if not isinstance(content, dict):
        raise FuselageError(
            f"{path}: expected a JSON object, got {type(content).__name__}; {advice}"
        )
    if content.get("kind") != kind:
        raise FuselageError(
            f"{path}: expected a document of kind {kind!r}, got {content.get('kind')!r}; {advice}"
        )
    if content.get("schema") != SCHEMA:
        raise FuselageError(
            f"{path}: expected schema {SCHEMA}, got {content.get('schema')!r}; {advice}"
        )
    missing = [key for key in _BY_KEY[kind].needed if not content.get(key)]
    if missing:
        raise FuselageError(f"{path}: expected {missing[0]!r} in it, got none; {advice}")
    return Facts(content, str(path))
