"""``manifest.json``: what a bundle holds, how it was made, and the hash of every file in it.

The text is canonical (ASCII, sorted keys, two spaces, one newline at the end) and carries its own
digest, so one changed byte anywhere is found. It protects from damage and mix-ups, not from
someone who writes a new manifest. `docs/bundle.md` has the format byte for byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..errors import BundleError
from .strict_json import StrictObject, canonical_json, json_digest

MANIFEST = "manifest.json"
SCHEMA = 1
WEIGHTS = ("pretrained", "random")
PADDED, PACKED = "padded", "packed"

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ModelId:
    """Where the model came from.

    Attributes:
        id: hub id, alias, or name of the local folder.
        revision: commit of the hub repository, None when there is none.
        digest: sha256 that identifies configuration and weights.
    """

    id: str
    revision: str | None
    digest: str


@dataclass(frozen=True, kw_only=True)
class TargetEntry:
    """One target of a bundle.

    Attributes:
        precision: for example ``fp16``.
        folder: name of its folder in the bundle.
        versions: package -> version it was built with.
        compute_capabilities: GPUs an ahead-of-time plan holds kernels for; empty on CPU.
        profile: dynamic axis -> (minimum, optimum, maximum).
        layout: ``padded``, or ``packed`` when texts share rows; ``padded`` is not written.
    """

    precision: str
    folder: str
    versions: Mapping[str, str]
    compute_capabilities: tuple[str, ...] = ()
    profile: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    layout: str = "padded"

    def to_json(self) -> dict[str, Any]:
        """The object of ``manifest.json``."""
        body = dict(vars(self))
        if self.layout == PADDED:
            del body["layout"]  # as bundles had it before there was another
        return body


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Hash and size of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything `docs/bundle.md` lists, schema 1.

    Attributes:
        model: where the model came from.
        weights: ``pretrained`` or ``random``.
        task: for example ``embedding``.
        recipe: JSON object of all that determined the build.
        passes: target -> specs of the passes that ran, in order.
        targets: target -> what was built.
        files: path inside the bundle -> hash and size; filled in by `BundleWriter.commit`.
        calibration: digest of ``calibration.json``'s content, None without calibration.
        verification: the verdict, at least ``{"passed": bool}``.
    """

    model: ModelId
    weights: str
    task: str
    recipe: Mapping[str, Any]
    passes: Mapping[str, tuple[str, ...]]
    targets: Mapping[str, TargetEntry]
    verification: Mapping[str, Any]
    calibration: str | None = None
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    @property
    def recipe_digest(self) -> str:
        """sha256 of the canonical JSON of the recipe; equal recipes have equal digests."""
        return json_digest(self.recipe)

    def to_json(self) -> str:
        """The canonical text of ``manifest.json``.

        Raises:
            BundleError: when the recipe or the verdict hold something JSON cannot.
        """
        body: dict[str, Any] = {
            "schema": SCHEMA,
            "model": vars(self.model),
            "weights": self.weights,
            "task": self.task,
            "recipe": self.recipe,
            "recipe_digest": self.recipe_digest,
            "passes": {target: list(specs) for target, specs in self.passes.items()},
            "targets": {target: entry.to_json() for target, entry in self.targets.items()},
            "files": {name: vars(entry) for name, entry in self.files.items()},
            "calibration": self.calibration,
            "verification": self.verification,
        }
        return canonical_json({**body, "digest": json_digest(body)})

    @classmethod
    def from_json(cls, text: str, origin: str = MANIFEST) -> Manifest:
        """Read ``manifest.json``, accepting exactly what `to_json` writes.

        Args:
            text: the file's content.
            origin: path for the messages.

        Raises:
            BundleError: naming the key that is missing, unknown or of another type or value, or
                saying that the text was changed after it was written.
        """
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(
                f"{origin}: not JSON ({error}); the bundle is damaged, copy or build it again"
            ) from error
        fields = StrictObject(body, origin)
        schema = fields.take("schema", int)
        if schema != SCHEMA:
            raise BundleError(
                f"{origin}: schema {schema} is not known, this fuselage reads schema {SCHEMA}; "
                "update fuselage, or build the bundle again"
            )
        fields.take("recipe_digest", str)
        digest = fields.take("digest", str)
        passes, targets, files = map(fields.inner, ("passes", "targets", "files"))
        manifest = cls(
            model=_model(fields.inner("model")),
            weights=fields.choice("weights", WEIGHTS),
            task=fields.take("task", str),
            recipe=fields.take("recipe", dict),
            passes={name: passes.sequence(name, str) for name in passes.keys},
            targets={name: _target(targets.inner(name)) for name in targets.keys},
            files={name: _file(name, files.inner(name)) for name in files.keys},
            calibration=fields.optional_text("calibration"),
            verification=_verdict(fields.take("verification", dict), origin),
        )
        fields.end()
        _check_folders(manifest, origin)
        # Both digests are recomputed, so equal text means equal digests.
        if text != manifest.to_json():
            raise BundleError(
                f"{origin}: the text is not what was written (it states the digest "
                f"{digest[:12]}...); the bundle is damaged or was edited, copy or build it again"
            )
        return manifest


def check_name(name: str, origin: str) -> str:
    """Refuse a path that is not plainly inside the bundle.

    Args:
        name: relative POSIX path such as ``graph/model.onnx``.
        origin: path for the message.

    Raises:
        BundleError: on absolute paths, drives, ``..``, backslashes, control characters, and every
            spelling that is not the shortest one.
    """
    path = PurePosixPath(name)
    plain = name.isprintable() and not set('\\:*?"<>|') & set(name)
    inside = path.parts and not path.is_absolute() and ".." not in path.parts
    if not plain or not inside or str(path) != name:
        raise BundleError(
            f"{origin}: {name!r} is not a plain relative path inside the bundle, "
            "such as 'graph/model.onnx'; do not use this bundle"
        )
    return name


def _model(fields: StrictObject) -> ModelId:
    model = ModelId(
        id=fields.take("id", str),
        revision=fields.optional_text("revision"),
        digest=fields.take("digest", str),
    )
    fields.end()
    return model


def _target(fields: StrictObject) -> TargetEntry:
    profile, versions = fields.inner("profile"), fields.inner("versions")
    entry = TargetEntry(
        precision=fields.take("precision", str),
        folder=check_name(fields.take("folder", str), fields.where),
        versions={name: versions.take(name, str) for name in versions.keys},
        compute_capabilities=fields.sequence("compute_capabilities", str),
        profile={axis: _sizes(profile, axis) for axis in profile.keys},
        layout=fields.choice("layout", (PACKED,)) if "layout" in fields.keys else PADDED,
    )
    fields.end()
    return entry


def _sizes(fields: StrictObject, axis: str) -> tuple[int, int, int]:
    sizes = fields.sequence(axis, int)
    if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise BundleError(
            f"{fields.where}: {axis!r} must be [minimum, optimum, maximum], got {list(sizes)}"
        )
    return sizes[0], sizes[1], sizes[2]


def _file(name: str, fields: StrictObject) -> FileEntry:
    if check_name(name, fields.where) == MANIFEST:
        raise BundleError(f"{fields.where}: the manifest cannot list itself")
    entry = FileEntry(sha256=fields.take("sha256", str), bytes=fields.take("bytes", int))
    fields.end()
    if not _SHA256.fullmatch(entry.sha256):
        raise BundleError(
            f"{fields.where}: 'sha256' must be 64 hexadecimal digits, got {entry.sha256!r}"
        )
    if entry.bytes < 0:
        raise BundleError(f"{fields.where}: 'bytes' must be at least 0, got {entry.bytes}")
    return entry


def _verdict(body: dict[str, Any], origin: str) -> dict[str, Any]:
    StrictObject(body, f"{origin}: verification").take("passed", bool)
    return body


def _check_folders(manifest: Manifest, origin: str) -> None:
    """Every target has a folder of its own with files in it."""
    folders = [entry.folder for entry in manifest.targets.values()]
    held = {name.partition("/")[0] for name in manifest.files if "/" in name}
    for target, folder in zip(manifest.targets, folders, strict=True):
        if "/" in folder or folder not in held or folders.count(folder) > 1:
            raise BundleError(
                f"{origin}: targets: {target}: 'folder' must name one folder of files of its own, "
                f"got {folder!r}; the files are in {sorted(held)}"
            )
    if not manifest.targets:
        raise BundleError(f"{origin}: 'targets' is empty; expected at least one target")
