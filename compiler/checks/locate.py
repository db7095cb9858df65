"""The first value at which two versions of a graph differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...calibration.session import GraphSession
from ...errors import CalibrationError
from ...graph.model import Graph
from ...graph.tensors import Array
from .check_pass import relative_error
from .reference import defined_elements
from .sampling import Sample
from .widen import widen_bfloat16

_HIDDEN = 1e30
"""Below its negative a score hides its key: -inf and the fills of all exporters are one to it."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where two graphs part.

    Attributes:
        value: name of the first value that both have and that differs.
        node: the node to look at: the one that makes the value, or the last one before it that the
            pass wrote.
        operator: of the node.
        written: all nodes the pass wrote between the values that still agree and this one.
        agreeing: names of the last values that agree.
        max_abs: largest absolute difference.
        relative: Frobenius norm of the difference over that of the value before.
        shape: of the value.
    """

    value: str
    node: str
    operator: str
    written: tuple[str, ...]
    agreeing: tuple[str, ...]
    max_abs: float
    relative: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Values:
    """Inner values of both graphs on one sample.

    Attributes:
        before: name -> array.
        after: name -> array.
        defined: name -> elements that depend on no hidden token, None where all are compared.
    """

    before: Mapping[str, Array]
    after: Mapping[str, Array]
    defined: Mapping[str, NDArray[np.bool_]] | None

    def error(self, name: str) -> tuple[float, float] | None:
        """(largest absolute, relative) difference; None when the two cannot be compared."""
        wanted, got = self.before[name], self.after[name]
        if (
            wanted.shape != got.shape
            or wanted.dtype != got.dtype
            or wanted.dtype.kind not in "fiub"
        ):
            return None
        if self.defined is not None:
            wanted, got = wanted[self.defined[name]], got[self.defined[name]]
        wanted, got = _comparable(wanted), _comparable(got)
        return float(np.abs(wanted - got).max(initial=0.0)), relative_error(wanted, got)


def first_difference(
    before: Graph, after: Graph, sample: Sample, tolerance: float, threads: int = 0
) -> Difference | None:
    """Compare all values that two graphs have by the same name, in the order of the second.

    A value that differs but whose readers all agree again is passed over: the pass meant it.

    Args:
        before: the graph that is right.
        after: the graph that may be wrong.
        sample: what both are fed.
        tolerance: largest relative error (Frobenius) of values that agree.
        threads: CPU threads, 0 for all physical cores.
    """
    values = _values(before, after, sample, threads)
    if values is None:
        return None
    errors = {name: error for name in values.after if (error := values.error(name)) is not None}
    off = {name for name, (_, relative) in errors.items() if not relative <= tolerance}
    for node in after.model.graph:
        for value in node.outputs:
            if value.name in off and not _is_absorbed(value, errors.keys(), off):
                return _difference(before, value, errors, off, values)
    return None


def _values(before: Graph, after: Graph, sample: Sample, threads: int) -> _Values | None:
    produced = [_produced(graph) for graph in (before, after)]
    names = [name for name in produced[1] if name in produced[0]]
    try:
        with GraphSession(widen_bfloat16(before), names, threads) as session:
            wanted = session.run(sample.feeds, names)
            redrawn = None if sample.redrawn is None else session.run(sample.redrawn, names)
        with GraphSession(widen_bfloat16(after), names, threads) as session:
            got = session.run(sample.feeds, names)
    except CalibrationError:
        return None
    defined = None if redrawn is None else defined_elements(sample, wanted, redrawn)
    return _Values(wanted, got, defined)


def _produced(graph: Graph) -> dict[str, ir.Node]:
    """Tensors that nodes of the main graph give."""
    return {
        value.name: node
        for node in graph.model.graph
        for value in node.outputs
        if value.name and not isinstance(value.type, ir.SequenceType | ir.OptionalType)
    }


def _comparable(array: Array) -> NDArray[np.float64]:
    wide = array.astype(np.float64)
    return np.clip(np.nan_to_num(wide, nan=2 * _HIDDEN), -_HIDDEN, _HIDDEN)


def _is_absorbed(value: ir.Value, known: AbstractSet[str], off: set[str]) -> bool:
    """Whether everything that reads the value agrees again."""
    if value.is_graph_output():
        return False
    nearest = list(_nearest_readers(value, known))
    return bool(nearest) and off.isdisjoint(nearest)


def _nearest_readers(value: ir.Value, known: AbstractSet[str]) -> Iterator[str]:
    pending, seen = [value], {value}
    while pending:
        for user, _ in pending.pop().uses():
            if user.op_type in ("Shape", "Size"):
                continue
            for output in user.outputs:
                if output in seen:
                    continue
                seen.add(output)
                if output.name in known:
                    yield output.name or ""
                else:
                    pending.append(output)


def _difference(
    before: Graph,
    value: ir.Value,
    errors: Mapping[str, tuple[float, float]],
    off: set[str],
    values: _Values,
) -> Difference:
    cone, agreeing = _cone(value, errors.keys() - off)
    old = _produced(before)
    written = [node for node in cone if not _is_kept(node, old)]
    producer = value.producer()
    assert producer is not None
    node = _guilty(producer, written, old)
    assert value.name is not None
    max_abs, relative = errors[value.name]
    return Difference(
        value=value.name,
        node=_name(node),
        operator=node.op_type,
        written=tuple(map(_name, written)),
        agreeing=tuple(agreeing),
        max_abs=max_abs,
        relative=relative,
        shape=values.after[value.name].shape,
    )


def _cone(value: ir.Value, agreeing: set[str]) -> tuple[list[ir.Node], list[str]]:
    """Nodes between values that agree and this one, in order, and the names of those values."""
    nodes, ends, pending = set[ir.Node](), dict[str, None](), [value]
    while pending:
        node = pending.pop().producer()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        for operand in node.inputs:
            if operand is None or operand.is_initializer():
                continue
            if operand.name in agreeing or operand.is_graph_input():
                ends[operand.name or ""] = None
            else:
                pending.append(operand)
    start = value.producer()
    assert start is not None
    assert start.graph is not None
    return [node for node in start.graph if node in nodes], list(ends)


def _guilty(producer: ir.Node, written: list[ir.Node], old: Mapping[str, ir.Node]) -> ir.Node:
    """The last node that is new or of another kind; one that merely reads others comes second."""
    made = [node for node in written if not _is_rewired(node, old)]
    candidates = made or written or [producer]
    return producer if producer in candidates else candidates[-1]


def _is_rewired(node: ir.Node, old: Mapping[str, ir.Node]) -> bool:
    before = old.get(node.outputs[0].name or "")
    return before is not None and _kind(before) == _kind(node)


def _is_kept(node: ir.Node, old: Mapping[str, ir.Node]) -> bool:
    """Whether the graph before had the node: operator, attributes, operands and constants."""
    before = old.get(node.outputs[0].name or "")
    return before is not None and _signature(before) == _signature(node)


def _signature(node: ir.Node) -> tuple[object, ...]:
    operands = [
        None if value is None else (value.name, id(value.const_value)) for value in node.inputs
    ]
    return (*_kind(node), *operands)


def _kind(node: ir.Node) -> tuple[object, ...]:
    attributes = sorted((name, str(item.value)) for name, item in node.attributes.items())
    return (node.domain, node.op_type, *attributes)


def _name(node: ir.Node) -> str:
    return node.name or f"{node.op_type} that gives {node.outputs[0].name}"
