"""Names of subjects in documents: short ones for tables, and which bundle they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ...engines.bundle import SOURCE
from .bundle_facts import BundleFacts
from .documents import Documents
from .reader import Facts


def short_subject(name: str) -> str:
    """``ort-cpu`` of ``bundle:build/minilm#ort-cpu``; the end of other names."""
    _, mark, target = name.partition("#")
    if mark:
        return target
    kind, mark, rest = name.partition(":")
    if rest.endswith(SOURCE):
        return "the float graph of the bundle"
    last = rest.rstrip("/").rpartition("/")[2]
    return f"{kind}: {last}" if mark and last else name


def short_names(names: Iterable[str]) -> dict[str, str]:
    """A short name for each, all different: with the folder where the target is not enough."""
    found = {name: short_subject(name) for name in names}
    counts = Counter(found.values())
    return {
        name: short if counts[short] == 1 else f"{Path(_path(name)).name} {short}"
        for name, short in found.items()
    }


def named_candidates(document: Facts) -> list[tuple[str, Facts]]:
    """The candidates of a comparison or an evaluation with their short names."""
    entries = document.parts("candidates")
    short = short_names([entry.text("name") or "?" for entry in entries])
    return [(short[entry.text("name") or "?"], entry) for entry in entries]


def concerns(name: str, bundle: BundleFacts) -> bool:
    """Whether a subject is an engine of a bundle, by its path or the name of its folder."""
    if name.partition(":")[0] in ("torch", "results"):
        return False
    path = Path(_path(name))
    if path.is_absolute() or len(path.parts) > 1:
        return path.resolve() == Path(bundle.path).resolve() or (
            not path.exists() and path.name == bundle.name
        )
    return path.name == bundle.name


def documents_about(bundle: BundleFacts, documents: Documents) -> Documents:
    """Of the documents, what concerns one bundle."""
    found = {}
    for kind, document in documents.found.items():
        part = _part_about(bundle, kind, document)
        if part is not None:
            found[kind] = part
    return Documents(found)


def _part_about(bundle: BundleFacts, kind: str, document: Facts) -> Facts | None:
    if kind == "cost-model":
        return document if concerns(document.text("subject") or "", bundle) else None
    if kind == "benchmark":
        names = {name for work in document.parts("works") for name, _ in work.named("candidates")}
        return document if any(concerns(name, bundle) for name in names) else None
    candidates = [
        entry.content
        for entry in document.parts("candidates")
        if concerns(entry.text("name") or "", bundle)
    ]
    if not candidates:
        return None
    verdicts = [entry.get("passed") for entry in candidates]
    passed = document.flag("passed") if None in verdicts else False not in verdicts
    return Facts({**document.content, "candidates": candidates, "passed": passed}, document.where)


def _path(name: str) -> str:
    return name.partition("#")[0].removeprefix("bundle:").removeprefix("ort:")
