"""Replace whatever builds the padding mask by the one canonical chain.

    Attention(q, k, v, <any subgraph that means "attend where attention_mask is 1">)
      ->  Attention(q, k, v, <the chain of padding_mask.py>)

Exporters spell the same mask in a dozen ways (GatherND over ranges, Flatten and Gather, Expand
guards, And with constants). Instead of a pattern for each, the subgraph is *run*: a mask is a pure
function of one padding input and of sizes, so it is evaluated on every padding mask of all small
shapes and on random ones at a size beyond each constant inside it (a sliding window of 64 looks
like no window until the sequence is longer). Only a subgraph that agrees everywhere is replaced;
every other one is refused with the first position that differs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph.history import Refusal
from ..graph.tensors import Array
from .base import Pass, PassResult, result
from .constants import array_of, insert_before
from .padding_mask import MASKED_BELOW, padding_source, write_padding_mask

_ALLOWED = frozenset(
    {
        "Abs", "Add", "And", "Cast", "CastLike", "Clip", "Concat", "Constant", "ConstantOfShape",
        "Div", "Equal", "Expand", "Flatten", "Gather", "GatherND", "Greater", "GreaterOrEqual",
        "Identity", "Less", "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or", "Range",
        "Reshape", "Shape", "Slice", "Squeeze", "Sub", "Tile", "Transpose",
        "Trilu", "Unsqueeze", "Where", "Xor",
    }
)  # fmt: skip
_SMALL_SHAPES = ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3))
_LARGEST_SIZE = 2048
_TO_THE_END = 2**31 - 1  # Slice ends from here on mean "all"; no sequence is that long
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})


class _Miss(Exception):  # noqa: N818  (control flow inside this file, never leaves it)
    """Why a mask is left as it is."""


@dataclass(frozen=True)
class SimplifyAttentionMask(Pass):
    """Give every Attention with a padding mask the one canonical additive mask."""

    name = "simplify-attention-mask"
    min_opset = 23

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        attentions: dict[ir.Value, list[ir.Node]] = {}
        for node in model.graph:
            mask = node.inputs[3] if node.op_type == "Attention" and len(node.inputs) > 3 else None
            if mask is not None and not node.domain:
                attentions.setdefault(mask, []).append(node)
        canonical = {
            source: mask for mask in attentions if (source := padding_source(mask)) is not None
        }
        rewrites, refusals = 0, []
        for mask, nodes in attentions.items():
            if mask in canonical.values():
                continue
            try:
                source = _padding_input(model, mask)
                dtype = _common_dtype(nodes, source, model.graph)
            except _Miss as miss:
                refusals += [Refusal(self.name, node.name or "?", str(miss)) for node in nodes]
                continue
            if source not in canonical:
                tape = ir.tape.Tape()
                canonical[source] = write_padding_mask(model.graph, tape, source, dtype)
                insert_before(model.graph[0], tape.nodes)
            for node in nodes:
                node.replace_input_with(3, canonical[source])
            rewrites += len(nodes)
        if rewrites:
            model.graph.sort()  # a canonical mask may stand behind an attention it now serves
        return result(model, rewrites, tuple(refusals))


def _common_dtype(nodes: list[ir.Node], source: ir.Value, graph: ir.Graph) -> ir.DataType:
    """The dtype of the queries, which must be as long as the padding mask is."""
    assert source.shape is not None
    lengths = {value.shape[1] for value in graph.inputs if value.shape and len(value.shape) == 2}
    for node in nodes:
        query = node.inputs[0]
        if query is None or query.dtype is None or query.shape is None:
            raise _Miss("the type of the queries is unknown; infer shapes first")
        length = query.shape[len(query.shape) - 2]
        unknown = isinstance(length, ir.SymbolicDim) and length.value is None
        if length != source.shape[1] and not (unknown and len(lengths) == 1):
            raise _Miss(
                f"the queries have length {length}, {source.name} has length {source.shape[1]}"
            )
    assert nodes[0].inputs[0] is not None
    assert nodes[0].inputs[0].dtype is not None
    return nodes[0].inputs[0].dtype


def _padding_input(model: ir.Model, mask: ir.Value) -> ir.Value:
    """The graph input whose padding the mask spells.

    Raises:
        _Miss: when the mask is anything else.
    """
    nodes, inputs = _cone(mask)
    foreign = sorted(
        {node.op_type for node in nodes if node.op_type not in _ALLOWED or node.domain}
    )
    if foreign:
        raise _Miss(f"the mask is computed with {', '.join(foreign)}")
    read = _cone(mask, stop="Shape")[1]  # what only lends its size is not read
    if len(read) != 1:
        names = ", ".join(sorted(str(value.name) for value in read)) or "no input but sizes"
        raise _Miss(f"the mask depends on {names}, not on one padding mask")
    candidate = read[0]
    if candidate.shape is None or len(candidate.shape) != 2:
        raise _Miss(f"the mask depends on {candidate.name} of shape {candidate.shape}, not 2-D")
    reason = _difference(_Evaluator(model, mask, inputs), candidate, _probe_length(nodes))
    if reason is not None:
        raise _Miss(f"the mask is not plain padding by {candidate.name}: {reason}")
    return candidate


def _cone(root: ir.Value, stop: str = "") -> tuple[list[ir.Node], list[ir.Value]]:
    """All nodes above a value, up to operators `stop`, and the graph inputs they read."""
    nodes: dict[ir.Node, None] = {}
    inputs: dict[ir.Value, None] = {}
    pending = [root]
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None:
            if value.is_graph_input():
                inputs[value] = None
        elif node not in nodes and node.op_type != stop:
            nodes[node] = None
            pending.extend(used for used in node.inputs if used is not None)
    return list(nodes), list(inputs)


def _probe_length(nodes: list[ir.Node]) -> int:
    """A sequence length beyond twice every size-like constant of the cone.

    Raises:
        _Miss: when a constant is too large for that: it may be a window that is never reached.
    """
    sizes = {size for node in nodes for size in _sizes(node) if 0 < size < _TO_THE_END}
    largest = max(sizes, default=2)
    if largest > _LARGEST_SIZE:
        raise _Miss(
            f"the mask holds the constant {largest:g}; windows are tried to {_LARGEST_SIZE}"
        )
    return 2 * math.ceil(largest) + 3


def _sizes(node: ir.Node) -> Iterator[float]:
    """Integers, floats that something is compared with, and the dims of tables."""
    for value in node.inputs:
        array = array_of(value)
        if array is None:
            continue
        if array.size > 64:
            yield from array.shape
        elif array.dtype.kind in "iu" or node.op_type in _COMPARISONS:
            yield from (abs(float(item)) for item in array.reshape(-1))
    if node.op_type == "ConstantOfShape" and "value" in node.attributes:
        yield abs(float(node.attributes["value"].as_tensor().numpy().reshape(-1)[0]))


class _Evaluator:
    """Runs the mask subgraph with the ONNX reference implementation."""

    def __init__(self, model: ir.Model, mask: ir.Value, inputs: list[ir.Value]) -> None:
        from onnx.reference import ReferenceEvaluator

        graph = ir.convenience.extract(model.graph, inputs, [mask])
        extracted = ir.Model(graph, ir_version=model.ir_version)
        extracted.opset_imports.update(model.opset_imports)
        self.inputs = inputs
        self._run = ReferenceEvaluator(ir.to_proto(extracted)).run

    def __call__(self, candidate: ir.Value, padding: Array) -> Array:
        """The mask for one padding mask [batch, sequence]; other inputs get random contents."""
        rng = np.random.default_rng(padding.shape[1])
        feeds: dict[str, Array] = {}
        for value in self.inputs:
            if value.dtype is None or value.shape is None or len(value.shape) != 2:
                raise _Miss(f"the mask reads the input {value.name!r} of shape {value.shape}")
            other = rng.integers(0, 2, padding.shape)
            feeds[value.name or ""] = (padding if value is candidate else other).astype(
                value.dtype.numpy()
            )
        try:
            return np.asarray(self._run(None, feeds)[0])
        except Exception as error:  # the reference evaluator raises whatever numpy raises
            raise _Miss(
                f"the mask cannot be evaluated at {list(padding.shape)}: {error}"
            ) from error


def _paddings(probe_length: int) -> Iterator[Array]:
    for batch, sequence in _SMALL_SHAPES:
        for bits in itertools.product((0, 1), repeat=batch * sequence):
            yield np.array(bits, np.int64).reshape(batch, sequence)
    rng = np.random.default_rng(0)
    for shape in ((3, 7), (1, probe_length)):
        yield np.ones(shape, np.int64)
        yield rng.integers(0, 2, shape)


def _difference(cone: _Evaluator, candidate: ir.Value, probe_length: int) -> str | None:
    for padding in _paddings(probe_length):
        batch, sequence = padding.shape
        got = cone(candidate, padding)
        if got.ndim != 4:
            return f"it has {got.ndim} dimensions, not 4"
        is_bool = got.dtype == np.bool_
        keeps = got.astype(bool) if is_bool else np.equal(got, 0)
        drops = np.logical_not(got) if is_bool else np.less_equal(got, MASKED_BELOW)
        wanted = padding.astype(bool)[:, None, None, :]
        try:
            wanted, keeps, drops = np.broadcast_arrays(wanted, keeps, drops)
        except ValueError:
            return f"it has shape {list(got.shape)} for padding {[batch, sequence]}"
        if wanted.shape[1] != 1 or wanted.shape[0] != batch or wanted.shape[3] != sequence:
            return f"it has shape {list(got.shape)} for padding {[batch, sequence]}"
        wrong = np.argwhere(np.logical_not(np.where(wanted, keeps, drops)))
        if len(wrong):
            row, _, query, key = (int(i) for i in wrong[0])
            state = "kept" if keeps[tuple(wrong[0])] else "masked"
            return f"at sequence {sequence} row {row} query {query} key {key} is {state}"
    return None
