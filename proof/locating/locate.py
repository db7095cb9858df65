"""Name the first layer at which a candidate goes another way than its reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from ...compiler.checks.widen import widen_bfloat16
from ...errors import CalibrationError, GraphError, VerificationError
from ...graph.model import Graph
from ...graph.tensors import Feeds
from ..subjects.base import Subject, chosen_feeds
from .align import Alignment, align
from .judge import FLOORS, PRESENT, Finding, first_off, furthest
from .landmarks import graph_file, landmarks
from .tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first layer that a candidate gets wrong.

    Attributes:
        layer: of the reference: path of the module, or name of the node.
        tensor: of the reference: the same, or the name of the value.
        value: nearest value of the candidate; None when nothing there has its shape.
        node: that gives the value.
        operator: of the node.
        error: what the layer does wrong by itself: Frobenius norm of the difference over that of
            the reference, when the candidate is fed the reference's values before the layer. None
            where nothing has its shape.
        limit: what the error may be there.
        error_in_run: the error in the run itself, what came from before included.
        agreed: the last layer before it that agrees, None when it is the first.
        not_finite: first node of the candidate that gives NaN or infinity in the run, or None.
        gradual: no layer stands out; this one is the furthest beyond its kind in the other layers.
        landmarks: tensors of the reference that were looked for.
        found: how many of them the candidate has.
        graph: ONNX file that was looked into.
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

    def __str__(self) -> str:
        """One line."""
        start = "no layer stands out; the error jumps most at" if self.gradual else "diverges at"
        error = "has no counterpart" if self.error is None else f"relative error {self.error:.1e}"
        if self.error is not None and self.error > PRESENT:
            error = f"nothing near it, {error} at best"
        parts = [f"{start} {self.layer}: {error}, limit {self.limit:.0e}"]
        if self.node is not None:
            parts.append(f"candidate's {self.operator} {self.node}")
        if self.not_finite is not None:
            parts.append(f"NaN or infinity first from {self.not_finite}")
        parts.append("nothing before it" if self.agreed is None else f"agrees up to {self.agreed}")
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
        feeds: on which they differ; the more real tokens the better, at least eight.
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
    tokens = Tokens.of(feeds)
    try:
        graph = widen_bfloat16(Graph.load(path))
        marks = landmarks(reference, feeds, tokens)
        fed = chosen_feeds(candidate.inputs, feeds, candidate.name)
        alignment = align(graph, marks, tokens, fed)
    except (CalibrationError, GraphError) as error:
        raise VerificationError(f"cannot look for the layer that diverges: {error}") from error
    floor = FLOORS[_precision(candidate, graph)]
    finding = first_off(alignment, floor)
    if finding is None and _differs(alignment, tolerance):
        finding = furthest(alignment, floor)
    return None if finding is None else _divergence(finding, alignment, graph, str(path))


def _precision(candidate: Subject, graph: Graph) -> str:
    """What the candidate rounds to: as it says, or as its operators and dtypes do."""
    if candidate.precision in FLOORS:
        return candidate.precision
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


def _divergence(finding: Finding, alignment: Alignment, graph: Graph, path: str) -> Divergence:
    mark, pair = alignment.marks[finding.index], finding.pair
    nodes = {value.name: node for node in graph.model.graph for value in node.outputs}
    node = None if pair is None else nodes[pair.value]
    in_run = alignment.run.get(finding.index)
    first = alignment.infinite[0] if alignment.infinite else None
    return Divergence(
        layer=mark.layer,
        tensor=mark.tensor,
        value=None if pair is None else pair.value,
        node=None if node is None else _name(node),
        operator=None if node is None else node.op_type,
        error=None if pair is None else pair.error,
        limit=finding.limit,
        error_in_run=None if in_run is None else in_run.error,
        agreed=None if finding.agreed is None else alignment.marks[finding.agreed].layer,
        not_finite=None if first is None else _name(nodes[first]),
        gradual=finding.gradual,
        landmarks=len(alignment.marks),
        found=sum(pair.error <= PRESENT for pair in alignment.local.values()),
        graph=path,
    )


def _name(node: ir.Node) -> str:
    return node.name or f"the one that gives {node.outputs[0].name}"
