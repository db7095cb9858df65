"""What ``explain`` and ``inspect`` look at: a bundle or an ONNX file."""

from __future__ import annotations

from pathlib import Path

from ...errors import BundleError


def is_bundle(subject: Path) -> bool:
    """True for a folder, False for a file.

    Raises:
        BundleError: when there is nothing of the name.
    """
    if not subject.exists():
        raise BundleError(
            f"{subject}: expected the folder of a bundle or an .onnx file, found nothing; "
            "make a bundle with: fuselage build MODEL"
        )
    return subject.is_dir()
