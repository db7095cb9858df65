"""Measures what was not given, where that takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...engines.bundle import SOURCE
from ...errors import FuselageError
from .bundle_facts import BundleFacts
from .documents import Documents
from .reader import Facts

_LARGEST = 500_000_000
"""Bytes of weights from which a comparison takes minutes."""


def with_comparison(
    bundle: BundleFacts, documents: Documents, told: Callable[[str], None]
) -> Documents:
    """Compare the engines that run here with the bundle's own float graph.

    What cannot be compared is told, and stays a gap that the report names.
    """
    blocker = _blocker(bundle)
    if blocker is not None:
        told(f"not compared: {blocker}")
        return documents
    from ..comparing.document import comparison_document
    from ..comparing.run import ComparisonRequest, run_comparison

    told("comparing the engines with the bundle's float graph; --no-run leaves that out")
    reference = Path(bundle.path) / SOURCE
    request = ComparisonRequest(reference=f"ort:{reference}", candidates=[f"bundle:{bundle.path}"])
    try:
        found = comparison_document(run_comparison(request, told))
    except FuselageError as error:
        told(f"not compared: {error}")
        return documents
    return Documents({**documents.found, "comparison": Facts(found, "comparison")})


def _blocker(bundle: BundleFacts) -> str | None:
    if SOURCE not in bundle.manifest.files:
        return "the bundle has no float graph"
    weights = bundle.report.part("model").number("weight_bytes") or 0
    if weights > _LARGEST:
        return f"{weights / 1e9:.1f} GB of weights take minutes; use fuselage compare"
    return None
