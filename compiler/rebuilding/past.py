"""The report of the build that a bundle came from: it may come from anywhere, and hold anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...engines.bundle import Bundle
from ...engines.strict_json import StrictObject
from ...errors import BundleError
from ..profiles.plan import BATCH, SEQUENCE
from ..report import REPORT, read_report


def past_report(bundle: Bundle) -> dict[str, Any]:
    """The ``report.json`` of a bundle, in which all that a rebuild reads is what it should be.

    Raises:
        BundleError: naming the key that is missing or of another kind.
    """
    report = read_report(bundle)
    check_report(report, str(bundle.path(REPORT)))
    return report


def check_report(report: Mapping[str, Any], where: str) -> None:
    """Refuse a report that a rebuild cannot read; keys it does not read may be anything.

    Args:
        report: JSON.
        where: it stands, for the message.

    Raises:
        BundleError: naming the key that is missing or of another kind.
    """
    whole = StrictObject(report, where)
    targets = whole.inner("targets")
    for name in targets.keys:
        targets.inner(name).sequence("lost", str)
    for verdict in _objects(whole.inner("verification"), "targets"):
        verdict.take("target", str)
        verdict.take("passed", bool)
    whole.take("latency", dict)
    if "rebuilt" in report:
        whole.take("rebuilt", dict)
    if report.get("quantization") is not None:
        for entry in _objects(whole.inner("quantization"), "kept_float"):
            entry.take("node", str)
    if report.get("shapes") is not None:
        _check_shapes(whole.inner("shapes"))


def _check_shapes(shapes: StrictObject) -> None:
    profiles = _objects(shapes, "profiles")
    for profile in profiles:
        sizes = {axis: profile.sequence(axis, int) for axis in profile.keys}
        if set(sizes) != {BATCH, SEQUENCE} or {len(three) for three in sizes.values()} != {3}:
            raise BundleError(
                f"{profile.where}: expected minimum, optimum and maximum of {BATCH} and "
                f"{SEQUENCE}, got {sizes}; build the bundle again from its model"
            )
    if not profiles:
        raise BundleError(f"{shapes.where}: 'profiles' is empty; build the bundle again")
    shapes.sequence("buckets", int)


def _objects(body: StrictObject, key: str) -> list[StrictObject]:
    items = body.sequence(key, dict)
    return [StrictObject(item, f"{body.where}: {key}: {at}") for at, item in enumerate(items)]
