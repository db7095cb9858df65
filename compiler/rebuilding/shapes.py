"""The sizes that a bundle's engines are built for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...engines.bundle import Bundle
from ...graph.tensors import ShapeProfile
from ..profiles.plan import ShapePlan


def stated_shapes(bundle: Bundle, report: Mapping[str, Any]) -> ShapePlan:
    """Profiles and buckets, from the report; from the manifest in bundles of before."""
    stated = report.get("shapes")
    if stated is not None:
        profiles = tuple(
            ShapeProfile({axis: (a, b, c) for axis, (a, b, c) in axes.items()})
            for axes in stated["profiles"]
        )
        return ShapePlan(profiles=profiles, buckets=tuple(stated["buckets"]))
    entry = next(iter(bundle.manifest.targets.values()))
    return ShapePlan(profiles=(ShapeProfile(dict(entry.profile)),))
