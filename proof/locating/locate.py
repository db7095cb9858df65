"""Name the first layer at which a candidate goes another way than its reference."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ...compiler.checks.widen import widen_bfloat16
from ...errors import CalibrationError, FeedError, GraphError, VerificationError
from ...graph.model import Graph
from ...graph.tensors import Feeds
from ..subjects.base import Subject, chosen_feeds
from .align import Alignment, align
from .inner_values import node_name
from .judge import FLOORS, PRESENT, Finding, first_off, furthest
from .landmarks import graph_file, landmarks
from .pairing import Pair
from .tokens import Tokens
from .unverified import first_unverified
from .variety import with_variety


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first layer that a candidate gets wrong.

    Attributes:
        layer: of the reference: path of the module, or name of the node.
        tensor: of the reference: the same, or the name of the value.
        value: its counterpart in the candidate. Where nothing is near, the first value of its shape
            that leads to no value that agrees; None when there is none.
        node: that gives the value.
        operator: of the node.
        error: what the layer does wrong by itself: Frobenius norm of the difference over that of
            the reference, when the candidate is fed the reference's values before the layer. None
            where nothing has its shape, or it holds NaN or infinity.
        limit: what the error may be there.
        error_in_run: the error in the run itself, what came from before included.
        agreed: the last layer before it that agrees, None when it is the first.
        not_finite: first node of the candidate that gives NaN or infinity in the run, or None.
        gradual: no layer stands out; this one is the furthest beyond its kind in the other layers.
        landmarks: tensors of the reference that were looked for.
        found: how many of them the candidate has.
        graph: ONNX file that was looked into.
        stand_in: the file is the bundle's canonical graph, which the candidate was built from,
            because what runs cannot be looked into.
    """

    layer: str
    tensor: str
    value: str | None
    node: str | None
    operator: str | None
    error: float | None
    limit: float
    error_in_run: float | None
    agreed: str | None
    not_finite: str | None
    gradual: bool
    landmarks: int
    found: int
    graph: str
    stand_in: bool

    def __str__(self) -> str:
        """One line."""
        start = "no layer stands out; the error jumps most at" if self.gradual else "diverges at"
        error = "no counterpart" if self.error is None else f"relative error {self.error:.1e}"
        parts = [f"{start} {self.layer}: {error}, limit {self.limit:.0e}"]
        if self.node is not None:
            parts.append(f"candidate's {self.operator} {self.node}")
        if self.not_finite is not None:
            parts.append(f"NaN or infinity first from {self.not_finite}")
        parts.append("nothing before it" if self.agreed is None else f"agrees up to {self.agreed}")
        if self.stand_in:
            parts.append("looked for in the canonical graph it was built from")
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def locate_divergence(
    reference: Subject, candidate: Subject, feeds: Feeds, *, tolerance: float
) -> Divergence | None:
    """Find the first layer that a candidate gets wrong.

    Tensors are paired by what they hold (`align`), and each is judged by its local error: what the
    candidate makes of it from the reference's own values (`judge`). Neither names nor the
    candidate's roundings of earlier layers matter, and a tensor that was fused away is passed over.

    Args:
        reference: a PyTorch model, an ONNX file, or a bundle.
        candidate: an ONNX file or a bundle. Of a target that no ONNX file describes, such as a
            TensorRT plan, the bundle's canonical graph is looked into.
        feeds: on which they differ. Where they hold few different tokens, rows of others are added.
        tolerance: largest relative error that outputs may have.

    Returns:
        None when nothing inside the graph differs by more than it rounds, nor adds up to more than
        the tolerance.

    Raises:
        VerificationError: when one of them is closed, or ONNX Runtime cannot run its graph.
    """
    path = graph_file(candidate)
    if path is None:
        raise VerificationError(f"{candidate.name} is closed: no value inside it can be read")
    try:
        graph = widen_bfloat16(Graph.load(path))
        floor = FLOORS[_precision(candidate, graph)]
        fed = with_variety(feeds)
        alignment = _aligned(reference, candidate, graph, fed, floor)
    except (CalibrationError, FeedError, GraphError) as error:
        raise VerificationError(f"cannot look for the layer that diverges: {error}") from error
    finding = first_off(alignment, floor)
    if finding is None and _differs(alignment, tolerance):
        finding = furthest(alignment, floor)
    if finding is None:
        return None
    suspect = finding.pair
    if finding.error > PRESENT:
        agreed = [alignment.local[index].value for index in finding.agreed]
        mark = alignment.marks[finding.index]
        own = chosen_feeds(candidate.inputs, fed, candidate.name)
        suspect = first_unverified(graph, agreed, mark, Tokens.of(fed), own)
    where = _Searched(graph, str(path), stand_in=candidate.graph is None)
    return _divergence(finding, alignment, where, suspect)


def _aligned(
    reference: Subject, candidate: Subject, graph: Graph, feeds: Feeds, floor: float
) -> Alignment:
    tokens = Tokens.of(feeds)
    marks = landmarks(reference, feeds, tokens)
    own = chosen_feeds(candidate.inputs, feeds, candidate.name)
    return align(graph, marks, tokens, own, lambda found: _place(found, floor))


def _place(alignment: Alignment, floor: float) -> tuple[int, str | None] | None:
    finding = first_off(alignment, floor)
    if finding is None:
        return None
    return finding.index, None if finding.pair is None else finding.pair.value


def _precision(candidate: Subject, graph: Graph) -> str:
    """What the candidate rounds to: as it says, or as its operators and dtypes do."""
    said = candidate.precision
    if said is not None and said in FLOORS:
        return said
    operators = graph.op_counts
    if any("Integer" in name or name == "QuantizeLinear" for name in operators):
        return "int8"
    if any("NBits" in name or name == "DequantizeLinear" for name in operators):
        return "int8-weight-only"
    dtypes = {value.dtype for node in graph.model.graph for value in node.outputs}
    names = {dtype.name for dtype in dtypes if dtype is not None}
    return "fp16" if "FLOAT16" in names else "fp32"


def _differs(alignment: Alignment, tolerance: float) -> bool:
    """Whether any pair is off in the run itself."""
    return any(tolerance < pair.error <= PRESENT for pair in alignment.run.values())


@dataclass(frozen=True)
class _Searched:
    graph: Graph
    path: str
    stand_in: bool


def _divergence(
    finding: Finding, alignment: Alignment, searched: _Searched, suspect: Pair | None
) -> Divergence:
    mark = alignment.marks[finding.index]
    nodes = {value.name: node for node in searched.graph.model.graph for value in node.outputs}
    node = None if suspect is None else nodes[suspect.value]
    in_run = alignment.run.get(finding.index)
    first = alignment.infinite[0] if alignment.infinite else None
    return Divergence(
        layer=mark.layer,
        tensor=mark.tensor,
        value=None if suspect is None else suspect.value,
        node=None if node is None else node_name(node),
        operator=None if node is None else node.op_type,
        error=None if suspect is None else _finite(suspect.error),
        limit=finding.limit,
        error_in_run=None if in_run is None else _finite(in_run.error),
        agreed=alignment.marks[finding.agreed[-1]].layer if finding.agreed else None,
        not_finite=None if first is None else node_name(nodes[first]),
        gradual=finding.gradual,
        landmarks=len(alignment.marks),
        found=sum(pair.error <= PRESENT for pair in alignment.local.values()),
        graph=searched.path,
        stand_in=searched.stand_in,
    )


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None
