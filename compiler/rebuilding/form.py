"""The graph that an engine is rebuilt from: the canonical one, or its quantised form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...calibration.table import CALIBRATION_FILE, CalibrationTable
from ...engines.bundle import SOURCE, Bundle
from ...errors import BuildError, BundleError, CalibrationError, PassError
from ...graph.model import Graph
from ...passes.pipeline import PassPipeline
from ...passes.presets import Precision
from ...passes.qdq.policy import QuantPlan, QuantPolicy
from ..precision import CALIBRATED, QUANTIZED
from ..quantization.formats import policy_of
from ..quantization.quantizable import quantizable
from ..report import REPORT


@dataclass(frozen=True, kw_only=True)
class Form:
    """A graph, before it is lowered to a target.

    Attributes:
        graph: with Q/DQ when the precision is quantised.
        plan: the GEMMs that are quantised; None for a float precision.
        policy: their format; None for a float precision.
    """

    graph: Graph
    plan: QuantPlan | None = None
    policy: QuantPolicy | None = None


def canonical_graph(bundle: Bundle) -> Graph:
    """The canonical graph of a bundle.

    Raises:
        BuildError: when the bundle has none.
        BundleError: when it is damaged.
    """
    source = bundle.source
    if source is None:
        raise BuildError(
            f"{bundle.root}: there is no {SOURCE} in this bundle to rebuild from; build it again "
            "from its model"
        )
    return Graph.load(source)


def form_of(
    bundle: Bundle, canonical: Graph, precision: Precision, report: Mapping[str, Any]
) -> Form:
    """The graph of a precision, with the ranges that the bundle holds.

    The same GEMMs stay in float as in the build, also those that an accuracy budget left there:
    no text is needed to decide it again.

    Args:
        bundle: checked.
        canonical: its graph.
        precision: of the engine to build.
        report: from `past_report`.

    Raises:
        BuildError: when the bundle holds no ranges, for a precision that needs them.
        BundleError: when the report names other GEMMs than the graph has.
        CalibrationError: when they are of another graph, or unusable.
    """
    if precision not in QUANTIZED:
        return Form(graph=canonical)
    quantization = report.get("quantization")
    if quantization is None:
        raise BuildError(
            f"{bundle.root}: precision {precision!r} needs a bundle that was built in it, this one "
            "has no quantised engine; build it again from its model with --precision "
            f"{precision}"
        )
    graph = quantizable(canonical)
    embeddings = bool(bundle.manifest.recipe.get("int8_embeddings", False))
    kept = tuple(entry["node"] for entry in quantization["kept_float"])
    policy = replace(policy_of(precision, embeddings=embeddings), keep_float=kept)
    table = _table(bundle, graph, precision)
    plan = _same_plan(bundle, policy, graph, kept)
    return Form(graph=PassPipeline(table.passes(policy)).run(graph), plan=plan, policy=policy)


def _same_plan(
    bundle: Bundle, policy: QuantPolicy, graph: Graph, kept: tuple[str, ...]
) -> QuantPlan:
    """The plan, in which nothing but what the report names stays in float."""
    try:
        plan = policy.plan(graph.model)
    except PassError as error:
        raise BundleError(f"{bundle.path(REPORT)}: quantization: kept_float: {error}") from error
    stay = {refusal.node for refusal in plan.refusals}
    if stay != set(kept):
        raise BundleError(
            f"{bundle.path(REPORT)}: quantization: kept_float names other GEMMs than stay in float "
            f"here, such as {min(stay ^ set(kept))!r}; build the bundle again from its model"
        )
    return plan


def _table(bundle: Bundle, graph: Graph, precision: Precision) -> CalibrationTable:
    if precision not in CALIBRATED:
        return CalibrationTable.without_ranges(graph.digest())
    if CALIBRATION_FILE not in bundle.manifest.files:
        raise BuildError(
            f"{bundle.root}: precision {precision!r} needs {CALIBRATION_FILE}, which this bundle "
            "lacks; build it again from its model and text"
        )
    path = bundle.path(CALIBRATION_FILE)
    table = CalibrationTable.load(path)
    if table.graph_digest != graph.digest():
        raise CalibrationError(
            f"{path}: its ranges are of another graph ({table.graph_digest[:12]}...) than "
            f"{SOURCE} gives here ({graph.digest()[:12]}...); this fuselage is not the one that "
            "built the bundle, build it again from its model and text"
        )
    return table
