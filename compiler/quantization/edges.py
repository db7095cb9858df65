"""The edges of a quantised graph one by one: what became of each, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from ...calibration.damage.headroom import Headroom
from ...calibration.damage.quality import Quality
from ...calibration.ranges.smoothing import Smoothing
from ...calibration.table import CalibrationTable, TensorRange
from ...graph.model import Graph
from ...passes.constants import producer
from ...passes.qdq.params import QuantParams, Scheme
from ...passes.qdq.policy import QuantPlan
from ...passes.qdq.sites import find_site
from .held_out import Findings

FLOAT = "float"

_RANGE_KEYS = ("amax", "scale", "estimator", "alpha", "transform", "shift")


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A tensor and the GEMMs that read it with the same fate.

    Attributes:
        tensor: name of the activation.
        linears: names of the nodes.
        scheme: of their operands; None when they stay float.
        reason: why they stay float; None when they do not.
        range: of the activation; None where none was calibrated.
        transform: what smoothing the activation costs; None without one.
        headroom: how held-out text uses the range; None without a range or such text.
        noise_share: what the linears make of the noise of all planned ones; None where it was not
            measured.
        token: text of the outlier's token.
    """

    tensor: str
    linears: tuple[str, ...]
    scheme: Scheme | None = None
    reason: str | None = None
    range: TensorRange | None = None
    transform: str | None = None
    headroom: Headroom | None = None
    noise_share: float | None = None
    token: str | None = None

    def facts(self) -> dict[str, Any]:
        """The edge as ``report.json`` holds it."""
        headroom = self.headroom
        return {
            "tensor": self.tensor,
            "linears": list(self.linears),
            "format": FLOAT if self.scheme is None else self.scheme.name,
            "reason": self.reason,
            **self._range_facts(),
            "outlier": self._outlier(),
            "weight_bits": None if self.scheme is None else self.scheme.dtype.bitwidth,
            "clip_rate": None if headroom is None else _digits(headroom.clip_rate),
            "headroom": None if headroom is None else _digits(headroom.reach),
            "noise_share": None if self.noise_share is None else _digits(self.noise_share),
        }

    def _range_facts(self) -> dict[str, Any]:
        found = self.range
        if found is None or self.scheme is None:
            return dict.fromkeys(_RANGE_KEYS)
        params = QuantParams.symmetric(found.amax, scheme=self.scheme)
        smoothing = found.smoothing
        return {
            "amax": _digits(found.amax),
            "scale": float(params.scale),
            "estimator": found.estimator,
            "alpha": None if smoothing is None else smoothing.alpha,
            "transform": self.transform,
            "shift": "none" if smoothing is None else _shift(smoothing),
        }

    def _outlier(self) -> dict[str, Any] | None:
        if self.range is None or self.range.outlier is None:
            return None
        facts = asdict(self.range.outlier) | {"token": self.token}
        return facts | {key: _digits(facts[key]) for key in ("value", "median")}


def edges_of_plan(
    graph: Graph,
    plan: QuantPlan,
    scheme: Scheme,
    table: CalibrationTable,
    findings: Findings,
    token_text: Callable[[int], str | None],
) -> tuple[Edge, ...]:
    """One entry for each activation that GEMMs read, in graph order, those left in float included.

    Args:
        graph: the float graph that was calibrated.
        plan: what was quantised and why the rest was not.
        scheme: format of the codes.
        table: the ranges.
        findings: of held-out text.
        token_text: gives the text of a token id.
    """
    total = sum(item.noise for item in findings.noises)
    noises = {item.linear.node: item.noise / total for item in findings.noises} if total else {}
    values = ir.convenience.create_value_mapping(graph.model.graph)
    edges = []
    for (tensor, reason), nodes in _groups(graph.model.graph, plan).items():
        names = tuple(_name(node) for node in nodes)
        found = table.ranges.get(tensor)
        outlier = None if found is None else found.outlier
        known = [noises[name] for name in names if name in noises]
        edges.append(
            Edge(
                tensor=tensor,
                linears=names,
                scheme=scheme if reason is None else None,
                reason=reason,
                range=found,
                transform=None if reason else _transform(values[tensor], nodes, found),
                headroom=None if reason else findings.headroom.get(tensor),
                noise_share=sum(known) if known else None,
                token=(
                    None if outlier is None or outlier.token is None else token_text(outlier.token)
                ),
            )
        )
    return tuple(edges)


def quality_facts(quality: Quality | None) -> dict[str, Any]:
    """The damage on held-out text as ``report.json`` holds it."""
    if quality is None:
        names = ("sqnr_db", "sqnr_interval", "cosine_mean", "cosine_interval", "cosine_min")
        return dict.fromkeys(names) | {"held_out_texts": 0}
    ratio, cosine = quality.sqnr_interval, quality.cosine_interval
    return {
        "sqnr_db": round(quality.sqnr_db, 3),
        "sqnr_interval": ratio and [round(ratio.low, 3), round(ratio.high, 3)],
        "cosine_mean": quality.cosine_mean,
        "cosine_interval": cosine and [cosine.low, cosine.high],
        "cosine_min": quality.cosine_min,
        "held_out_texts": quality.texts,
    }


def _groups(graph: ir.Graph, plan: QuantPlan) -> dict[tuple[str, str | None], list[ir.Node]]:
    """The GEMMs by what they read and why they stay float (None when they do not)."""
    planned = {linear.output for linear in plan.linears}
    reasons = {refusal.node: refusal.reason for refusal in plan.refusals}
    groups: dict[tuple[str, str | None], list[ir.Node]] = {}
    for node in graph:
        is_planned = node.outputs[0].name in planned
        if not is_planned and _name(node) not in reasons:
            continue
        reason = None if is_planned else reasons[_name(node)]
        activation = node.inputs[0]
        if activation is not None:
            groups.setdefault((str(activation.name), reason), []).append(node)
    return groups


def _transform(x: ir.Value, readers: Sequence[ir.Node], found: TensorRange | None) -> str | None:
    """Where the smoothing of a tensor goes."""
    if found is None or found.smoothing is None:
        return None
    site = find_site(x, readers)
    if site.norm is not None:
        others = any(usage.node not in readers for usage in x.uses()) or x.is_graph_output()
        restored = ", one Mul restores it for others" if others else ""
        return f"gain of {site.norm.op_type}{restored}"
    if site.linear is None:
        return "one Mul" if _shift(found.smoothing) == "none" else "one Mul and one Add"
    if producer(x, "Attention") is not None:
        return "columns of the value projection"
    return "columns of the linear in front"


def _shift(smoothing: Smoothing) -> str:
    if not smoothing.steps.any():
        return "none"
    return "uniform" if (smoothing.steps == smoothing.steps[0]).all() else "channel"


def _name(node: ir.Node) -> str:
    return node.name or str(node.outputs[0].name)


def _digits(value: float) -> float:
    """Four significant digits: a report is read by people too."""
    return float(f"{value:.4g}")
