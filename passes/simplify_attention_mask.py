"""Replace whatever builds the padding mask by the one canonical chain.

    Attention(q, k, v, <any subgraph that means "attend where attention_mask is 1">)
      ->  keep = Unsqueeze(Cast(attention_mask, bool), [1, 2])
          Attention(q, k, v, Expand(Where(keep, 0, lowest), [1, 1, s, 1]))

Exporters spell the same mask in a dozen ways (GatherND over ranges, Flatten and Gather, Expand
guards, And with constants). Instead of a pattern for each, the subgraph is *run*: a mask is a pure
function of the padding mask and the sizes, so it is evaluated on every padding mask of all small
shapes and on random ones at a size beyond each integer constant inside it (a sliding window of 64
looks like no window until the sequence is longer). Only a subgraph that agrees everywhere is
replaced; every other one is refused with the first position that differs.

The result is additive and finite, [batch, 1, sequence, sequence]: a row whose every key is masked
gets uniform weights, as in PyTorch's eager attention.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..errors import PassError
from ..graph.history import Refusal
from ..graph.tensors import Array
from .base import Pass, PassResult, result
from .constants import initializer, insert_before, ints_of

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
_LARGEST_PROBE = 2048
_MASKED_BELOW = -1e4  # the weakest mask constant in use (original BERT); exp(-1e4) is 0 in float32


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
            source: mask for mask in attentions if (source := _canonical_source(mask)) is not None
        }
        rewrites, refusals = 0, []
        for mask, nodes in attentions.items():
            if mask in canonical.values():
                continue
            try:
                source = _padding_source(model, mask)
            except _Miss as miss:
                refusals += [Refusal(self.name, node.name or "?", str(miss)) for node in nodes]
                continue
            if source not in canonical:
                canonical[source] = _emit(model.graph, source, nodes[0])
            for node in nodes:
                node.replace_input_with(3, canonical[source])
            rewrites += len(nodes)
        return result(model, rewrites, tuple(refusals))


def _padding_source(model: ir.Model, mask: ir.Value) -> ir.Value:
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
    candidates = [value for value in inputs if value.shape is not None and len(value.shape) == 2]
    if not candidates:
        raise _Miss("the mask depends on no two-dimensional graph input")
    cone = _Evaluator(model, mask, inputs)
    reasons = []
    # The real mask first; input_ids only lends its shape in most graphs.
    for candidate in sorted(candidates, key=lambda value: "mask" not in (value.name or "")):
        reason = _difference(cone, candidate, _probe_length(nodes))
        if reason is None:
            return candidate
        reasons.append(f"{candidate.name}: {reason}")
    raise _Miss("the mask is not plain padding (" + "; ".join(reasons) + ")")


def _cone(root: ir.Value) -> tuple[list[ir.Node], list[ir.Value]]:
    """All nodes above a value, and the graph inputs they read."""
    nodes: dict[ir.Node, None] = {}
    inputs: dict[ir.Value, None] = {}
    pending = [root]
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None:
            if value.is_graph_input():
                inputs[value] = None
        elif node not in nodes:
            nodes[node] = None
            pending.extend(used for used in node.inputs if used is not None)
    return list(nodes), list(inputs)


def _probe_length(nodes: list[ir.Node]) -> int:
    """A sequence length beyond twice every size-like constant of the cone."""
    constants = [
        abs(item)
        for node in nodes
        for value in node.inputs
        for item in (ints_of(value) or ())
        if 0 < abs(item) <= _LARGEST_PROBE // 2
    ]
    return 2 * max(constants, default=2) + 3


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
    for shape in ((3, 7), (2, probe_length)):
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
        drops = np.logical_not(got) if is_bool else np.less_equal(got, _MASKED_BELOW)
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


def _emit(graph: ir.Graph, source: ir.Value, first: ir.Node) -> ir.Value:
    """Insert the canonical chain at the top of the graph."""
    query = first.inputs[0]
    if query is None or query.dtype is None or source.shape is None:
        raise PassError(f"attention {first.name!r}: the query has no dtype; infer shapes first")
    dtype, name = query.dtype, source.name or "mask"
    axes = initializer(graph, f"{name}.axes", np.array([1, 2], np.int64))
    zero = initializer(graph, f"{name}.keep", np.zeros((), dtype.numpy()))
    lowest = initializer(graph, f"{name}.drop", np.array(dtype.min, dtype.numpy()))
    ones = initializer(graph, f"{name}.ones", np.array([1, 1], np.int64))
    one = initializer(graph, f"{name}.one", np.array([1], np.int64))
    tape = ir.tape.Tape()
    keep = tape.op("Unsqueeze", [tape.op("Cast", [source], {"to": ir.DataType.BOOL}), axes])
    bias = tape.op("Where", [keep, zero, lowest])
    length = tape.op("Shape", [source], {"start": 1, "end": 2})
    target = tape.op("Concat", [ones, length, one], {"axis": 0})
    full = tape.op("Expand", [bias, target])
    batch, sequence = source.shape[0], source.shape[1]
    full.shape, full.type = ir.Shape([batch, 1, sequence, sequence]), ir.TensorType(dtype)
    insert_before(graph[0], tape.nodes)
    return full


def _canonical_source(mask: ir.Value) -> ir.Value | None:
    """The padding input when the mask already is the canonical chain."""
    chain = []
    value: ir.Value | None = mask
    for op_type, operand in (("Expand", 0), ("Where", 0), ("Unsqueeze", 0), ("Cast", 0)):
        node = None if value is None else value.producer()
        if node is None or node.op_type != op_type:
            return None
        chain.append(node)
        value = node.inputs[operand]
    lowest = ir.convenience.get_const_tensor(chain[1].inputs[2]) if chain[1].inputs[2] else None
    finite = lowest is not None and np.isfinite(lowest.numpy()).all()
    return value if finite and value is not None and value.is_graph_input() else None
