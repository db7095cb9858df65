"""Everything a bundle says about itself, read once and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ...compiler.report import read_report
from ...engines.bundle import SOURCE, Bundle
from ...engines.manifest import Manifest
from ...errors import BundleError
from .onnx_outline import Outline, read_outline
from .reader import Facts

CANONICAL = "canonical"
_CALIBRATION = "calibration.json"


@dataclass(frozen=True, kw_only=True)
class BundleFacts:
    """What a report says of one bundle.

    Attributes:
        path: as the user wrote it.
        label: ``A`` or ``B`` where two stand side by side, else empty.
        manifest: files, targets, recipe.
        report: ``report.json``.
        engines: ``engine.json`` of each engine.
        ranges: tensor -> its entry in ``calibration.json``; empty without one.
        graphs: ``canonical`` and the ONNX Runtime engines -> the nodes of their graphs.
    """

    path: str
    label: str
    manifest: Manifest
    report: Facts
    engines: dict[str, Facts]
    ranges: dict[str, Facts]
    graphs: dict[str, Outline]

    @classmethod
    def read(cls, path: Path, label: str = "") -> BundleFacts:
        """Open a bundle.

        Raises:
            BundleError: when it is missing or damaged, or has no report.
            GraphError: when a graph in it is none.
        """
        bundle = Bundle.open(path, full=True)
        return cls(
            path=str(path),
            label=label,
            manifest=bundle.manifest,
            report=Facts(read_report(bundle), f"{path}/report.json"),
            engines={name: _engine(bundle, name) for name in bundle.targets},
            ranges=_ranges(bundle),
            graphs=_graphs(bundle),
        )

    @property
    def key(self) -> str:
        """What ids of this bundle begin with."""
        return (self.label or "a").lower()

    @property
    def title(self) -> str:
        """The name people know: the last part of the model's id."""
        return self.manifest.model.id.rstrip("/").rpartition("/")[2] or self.manifest.model.id

    @property
    def name(self) -> str:
        """The last part of its path."""
        return Path(self.path).resolve().name

    @property
    def precision(self) -> str:
        """Of the engines, or ``fp16, int8`` when they differ."""
        return ", ".join(sorted({entry.precision for entry in self.manifest.targets.values()}))


def _engine(bundle: Bundle, name: str) -> Facts:
    path = bundle.root / bundle.manifest.targets[name].folder / "engine.json"
    return _json(path) if path.is_file() else Facts({}, str(path))


def _ranges(bundle: Bundle) -> dict[str, Facts]:
    if _CALIBRATION not in bundle.manifest.files:
        return {}
    return dict(_json(bundle.path(_CALIBRATION)).named("ranges"))


def _graphs(bundle: Bundle) -> dict[str, Outline]:
    """Without hashing the weights beside them: a picture is not an answer."""
    paths = {CANONICAL: bundle.root / SOURCE}
    for name, entry in bundle.manifest.targets.items():
        paths[name] = bundle.root / entry.folder / "model.onnx"
    outlines = {name: read_outline(path) for name, path in paths.items() if path.is_file()}
    return {name: outline for name, outline in outlines.items() if outline is not None}


def _json(path: Path) -> Facts:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: expected JSON, got {error}; build the bundle again") from error
    if not isinstance(content, dict):
        raise BundleError(
            f"{path}: expected a JSON object, got {type(content).__name__}; build the bundle again"
        )
    return Facts(content, str(path))
