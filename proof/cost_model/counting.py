"""Count operations and bytes of every node of a graph, as polynomials in its dynamic sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ...graph.model import Graph
from ...passes.shapes.analysis import analyse
from .foreign import declare_foreign
from .operators import OPERATORS, UNKNOWN, name_of
from .polynomial import ZERO, Polynomial, total
from .site import Site, UncountableError

_LAYER = re.compile(r"(?:^|[./_])(?:layers?|blocks?|h|block)[._](\d+)(?=[./_]|$)")


@dataclass(frozen=True, kw_only=True)
class NodeCost:
    """What one node does.

    Attributes:
        name: of the node.
        op: its operator, with the domain where that is not the standard one.
        kind: class of the operator, ``unknown`` where the table has no row for it.
        layer: as its name says it, such as ``layer 3``; empty outside of layers.
        weight: dims of the constant operand of a product; empty for others.
        flops: operations, as `operators` counts them; 0 for an unknown operator.
        weight_bytes: read of constants.
        read_bytes: read of values that are computed or fed.
        written_bytes: written.
        integer: whether a product multiplies codes of 8 bits or less.
        problem: why it could not be counted; None when it was. An unknown operator is counted as
            the movement of all its operands.
    """

    name: str
    op: str
    kind: str
    layer: str = ""
    weight: tuple[int, ...] = ()
    flops: Polynomial
    weight_bytes: Polynomial
    read_bytes: Polynomial
    written_bytes: Polynomial
    integer: bool = False
    problem: str | None = None

    @property
    def moved_bytes(self) -> Polynomial:
        """Read and written."""
        return self.weight_bytes + self.read_bytes + self.written_bytes


@dataclass(frozen=True)
class GraphCost:
    """What all nodes of a graph do, in the order they run."""

    nodes: tuple[NodeCost, ...]

    @property
    def flops(self) -> Polynomial:
        """Operations of all nodes."""
        return total([node.flops for node in self.nodes])

    @property
    def moved_bytes(self) -> Polynomial:
        """Bytes of all nodes; what two nodes share counts twice."""
        return total([node.moved_bytes for node in self.nodes])

    @property
    def problems(self) -> tuple[NodeCost, ...]:
        """Nodes of unknown operators, and nodes of unknown sizes."""
        return tuple(node for node in self.nodes if node.problem is not None)


def count(graph: Graph) -> GraphCost:
    """Count every node of the main graph.

    Args:
        graph: canonical, lowered, quantised, or as ONNX Runtime optimised it. It is not changed.

    Returns:
        Polynomials whose names are the graph's dynamic axes. A node of an unknown operator counts
        as movement and has a `problem`, so that nothing is left out without a word.
    """
    model = declare_foreign(graph)
    facts = analyse(model)
    return GraphCost(tuple(_counted(Site(node, facts)) for node in model.graph))


def layer_of(name: str) -> str:
    """The layer that the name of a node gives, such as ``layer 3``."""
    found = _LAYER.search(name)
    return f"layer {found[1]}" if found else ""


def _counted(site: Site) -> NodeCost:
    name, op = site.node.name or site.node.op_type, name_of(site)
    row = OPERATORS.get(op)
    kind = UNKNOWN if row is None else row.kind
    problem = None if row is not None else f"no formula for {op}: counted as movement of its bytes"
    flops, moved = ZERO, (ZERO, ZERO, ZERO)
    try:
        moved = _moved(site, "operands" if row is None else row.moves)
        flops = ZERO if row is None else row.operations(site)
    except UncountableError as error:
        problem = f"{op} is not counted: {error}"
    weight = _weight(site) if kind == "product" else ()
    return NodeCost(
        name=name,
        op=op,
        kind=kind,
        layer=layer_of(name),
        weight=weight,
        flops=flops,
        weight_bytes=moved[0],
        read_bytes=moved[1],
        written_bytes=moved[2],
        integer=kind == "product" and _is_integer(site),
        problem=problem,
    )


def _moved(site: Site, moves: str) -> tuple[Polynomial, Polynomial, Polynomial]:
    """Bytes of constants, of other inputs, and of outputs."""
    if moves == "nothing":
        return ZERO, ZERO, ZERO
    written = total([site.bytes_of(value) for value in _outputs(site)])
    if moves == "result":
        return ZERO, ZERO, written
    weights, read = ZERO, ZERO
    for index, value in enumerate(site.node.inputs):
        if value is None:
            continue
        size = written if moves == "rows" and index == 0 else site.bytes_of(value)
        if value.is_initializer() or ir.convenience.get_const_tensor(value) is not None:
            weights += size
        else:
            read += size
    return weights, read, written


def _outputs(site: Site) -> Iterator[ir.Value]:
    """Those that somebody reads; ONNX Runtime does not write the others."""
    for value in site.node.outputs:
        if value.uses() or value.is_graph_output():
            yield value


def _weight(site: Site) -> tuple[int, ...]:
    """Dims of the first constant that is a matrix; scales, zero points and biases are none."""
    for value in site.node.inputs[1:]:
        if value is None or ir.convenience.get_const_tensor(value) is None:
            continue
        shape = site.facts[value].shape or ()
        if len(shape) >= 2:
            return tuple(dim for dim in shape if isinstance(dim, int))
    return ()


def _is_integer(site: Site) -> bool:
    return any(
        value is not None and (found := site.facts[value].dtype) is not None and found.itemsize <= 1
        for value in site.node.inputs[:2]
    )


def sizes_of(cost: GraphCost) -> frozenset[str]:
    """Every size the costs depend on."""
    polynomials = (poly for node in cost.nodes for poly in (node.flops, node.moved_bytes))
    return frozenset(size for poly in polynomials for size in poly.sizes)
