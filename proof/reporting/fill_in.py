"""Measures what was not given, where that takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...engines.bundle import SOURCE
from ...errors import FuselageError
from .bundle_facts import BundleFacts
from .documents import Documents
from .reader import Facts

_LARGEST = 500_000_000
"""Bytes of weights from which answers take minutes."""

_SHAPE = "8x128"

Told = Callable[[str], None]


def fill_in(bundles: Sequence[BundleFacts], documents: Documents, told: Told) -> Documents:
    """Compare the engines that run here with the first bundle's float graph; count what they do.

    What cannot be made here is told, and stays a gap that the report names.
    """
    found = dict(documents.found)
    for kind, make in (("comparison", _compare), ("cost-model", _count)):
        if kind in found:
            continue
        try:
            found[kind] = Facts(make(bundles, told), kind)
        except FuselageError as error:
            told(f"no {kind}: {error}")
    return Documents(found)


def _compare(bundles: Sequence[BundleFacts], told: Told) -> dict[str, Any]:
    bundle = bundles[0]
    if SOURCE not in bundle.manifest.files:
        raise FuselageError("the bundle has no float graph to compare with")
    weights = bundle.report.part("model").number("weight_bytes") or 0
    if weights > _LARGEST:
        raise FuselageError(
            f"{weights / 1e9:.1f} GB of weights take minutes; make one with fuselage compare"
        )
    from ..comparing.document import comparison_document
    from ..comparing.run import ComparisonRequest, run_comparison

    told("comparing the engines with the bundle's float graph; --no-run leaves that out")
    reference = f"ort:{Path(bundle.path) / SOURCE}"
    model = bundle.manifest.model.digest
    alike = [other for other in bundles if other.manifest.model.digest == model]
    candidates = [f"bundle:{other.path}" for other in alike]
    request = ComparisonRequest(reference=reference, candidates=candidates)
    return comparison_document(run_comparison(request, told))


def _count(bundles: Sequence[BundleFacts], told: Told) -> dict[str, Any]:
    from ...compiler.packages import REWRITING, require

    require(REWRITING, "counting a graph")
    from ..cost_model.document import document
    from ..cost_model.examine import examine
    from ..cost_model.shape import CostShape
    from ..cost_model.subject import open_engine

    told("counting what every node does; --no-run leaves that out")
    return document(examine(open_engine(Path(bundles[0].path)), CostShape.parse(_SHAPE)))
