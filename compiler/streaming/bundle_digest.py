"""What tells a bundle from every other."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from ...engines.manifest import MANIFEST


def bundle_digest(root: Path) -> str:
    """Sha256 of the manifest, which has the hash of every file.

    Of a folder that is opened on trust without one: of names, sizes and times.
    """
    manifest = root / MANIFEST
    if manifest.is_file():
        return sha256(manifest.read_bytes()).hexdigest()
    files = sorted(path for path in root.rglob("*") if path.is_file())
    facts = [
        (path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
    ]
    return sha256(json.dumps(facts).encode()).hexdigest()
