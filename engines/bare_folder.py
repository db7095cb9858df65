"""Engine folders without a manifest: refused, unless the user trusts whoever made them."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import BundleError
from .base import ENGINE_FACTS
from .manifest import MANIFEST, Manifest, ModelId, TargetEntry
from .plain_file import plain_file
from .targets import TARGETS

_UNKNOWN = "unknown"


def bare_manifest(root: Path, *, trust: bool) -> Manifest:
    """Describe a folder that has engines but no manifest.

    Args:
        root: a folder with one sub-folder a target.
        trust: whether the user asked for it.

    Returns:
        A manifest that says ``unknown`` wherever only a real one could tell; it lists no files and
        is never written.

    Raises:
        BundleError: when ``trust`` is False, or there is no engine in the folder.
    """
    targets = _targets(root)
    if not targets:
        raise BundleError(
            f"{root}: no {MANIFEST} and no engine in it, so it is not a bundle; "
            "make one with: fuselage build MODEL --out DIR"
        )
    if not trust:
        raise BundleError(
            f"{root}: there is no {MANIFEST}, so its engines ({', '.join(targets)}) cannot be "
            "checked, and a TensorRT plan is code that would run on this machine; build it again, "
            "or open it with --trust if you know who made it"
        )
    return Manifest(
        model=ModelId(id=_UNKNOWN, revision=None, digest=_UNKNOWN),
        weights=_UNKNOWN,
        task=_UNKNOWN,
        recipe={},
        passes={},
        targets=targets,
        verification={"passed": False, "reason": f"no {MANIFEST}"},
    )


def _targets(root: Path) -> dict[str, TargetEntry]:
    found: dict[str, TargetEntry] = {}
    for facts in sorted(root.glob(f"*/{ENGINE_FACTS}")):
        try:
            plain_file(root, facts)
            target = json.loads(facts.read_bytes())["target"]
            if not isinstance(target, str):
                raise TypeError(f"target {target!r:.40}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"{facts}: not the facts of an engine ({error!r})") from error
        if target in TARGETS:
            found[target] = TargetEntry(precision=_UNKNOWN, folder=facts.parent.name, versions={})
    return found
