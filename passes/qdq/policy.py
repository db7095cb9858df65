"""Which edges are quantised: both operands of GEMMs with a constant weight, and nothing else.

Outputs, biases, residual adds, normalisations and the attention core stay float: on MiniLM,
quantising GEMM outputs too costs 3.2 points on STS-B and letting the residual read the quantised
tensor 1.7 dB, and neither removes a single TensorRT kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from ...errors import PassError
from ...graph.history import Refusal
from .params import INT8, Scheme
from .projections import attention_projections
from .tables import Table, find_tables

RULE = "insert-qdq"
_PROJECTION = "the policy keeps the projections of attention in float"
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A GEMM that will run in INT8.

    Attributes:
        node: the node's name.
        output: the tensor it writes, which identifies it.
        activation: the tensor whose edge into this node is quantised.
        weight: the constant it multiplies with.
        axis: axis of the output channels in the weight as the INT8 graph stores it: 1 for
            ``[K, N]``, 0 for the ``[N, K]`` of a Gemm with transB.
        transposed: a Transpose stands between the constant and the node, and will be absorbed.
        depth: K, the length of each dot product.
        channels: N, the output channels.
    """

    node: str
    output: str
    activation: str
    weight: str
    axis: int
    transposed: bool
    depth: int
    channels: int


@dataclass(frozen=True)
class QuantPlan:
    """The edges to quantise, in graph order, and why other GEMMs stay float.

    Attributes:
        linears: the GEMMs that become INT8.
        refusals: GEMMs that stay float, each with its reason.
        tables: look-ups of embeddings that become INT8.
        float_tables: look-ups that stay float; empty when none was asked for.
    """

    linears: tuple[Linear, ...]
    refusals: tuple[Refusal, ...] = ()
    tables: tuple[Table, ...] = ()
    float_tables: tuple[Refusal, ...] = ()

    @property
    def activations(self) -> tuple[str, ...]:
        """The tensors that need a range: each one once, however many GEMMs read it."""
        return tuple(dict.fromkeys(linear.activation for linear in self.linears))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and strings, ready for ``json.dumps``."""
        return {
            "linears": [asdict(linear) for linear in self.linears],
            "refusals": [asdict(refusal) for refusal in self.refusals],
            "tables": [asdict(table) for table in self.tables],
            "float_tables": [asdict(refusal) for refusal in self.float_tables],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantPlan:
        """The reverse of `to_json`."""
        return cls(
            tuple(Linear(**linear) for linear in data["linears"]),
            tuple(Refusal(**refusal) for refusal in data["refusals"]),
            tuple(Table(**table) for table in data["tables"]),
            tuple(Refusal(**refusal) for refusal in data["float_tables"]),
        )


@dataclass(frozen=True, kw_only=True)
class QuantPolicy:
    """What is worth quantising, and in which form.

    Attributes:
        min_size: a GEMM whose K, N or (static) M is smaller stays float: an INT8 tile is 16 wide.
        keep_float: names of nodes, or of the tensors they write, that stay float in any case.
        scheme: format of the codes.
        weight_only: weights alone are quantised; products are computed in float.
        embeddings: large embedding tables are quantised as well, in INT8.
        projections: the linears around an attention are quantised; without them the feed-forward
            and other linears alone.

    Raises:
        PassError: when tables are asked for in another format.
    """

    min_size: int = 16
    keep_float: tuple[str, ...] = ()
    scheme: Scheme = INT8
    weight_only: bool = False
    embeddings: bool = False
    projections: bool = True

    def __post_init__(self) -> None:
        if self.embeddings and self.scheme != INT8:
            raise PassError(
                f"quantisation policy: embedding tables are quantised to int8 alone, not to "
                f"{self.scheme.name}"
            )

    def plan(self, model: ir.Model) -> QuantPlan:
        """Look at every MatMul and Gemm of the main graph. The model is not changed.

        Raises:
            PassError: when `keep_float` names a node that the graph does not have.
        """
        self._check_names(model.graph)
        rows = _text_axes(model.graph)
        apart = frozenset() if self.projections else attention_projections(model.graph)
        linears: list[Linear] = []
        refusals: list[Refusal] = []
        for node in model.graph:
            if node.domain or node.op_type not in ("MatMul", "Gemm") or _is_quantized(node):
                continue
            is_apart = node.outputs[0].name in apart
            verdict = _PROJECTION if is_apart else self._examine(node, rows)
            if isinstance(verdict, Linear):
                linears.append(verdict)
            else:
                refusals.append(Refusal(RULE, _name(node), verdict))
        quantized = {linear.output for linear in linears}
        tables, others = find_tables(model.graph, quantized) if self.embeddings else ((), ())
        return QuantPlan(tuple(linears), tuple(refusals), tables, others)

    def _examine(self, node: ir.Node, rows: frozenset[str]) -> Linear | str:
        reason = _refuse_form(node)
        if reason is not None:
            return reason
        activation, operand = node.inputs[0], node.inputs[1]
        assert activation is not None
        assert operand is not None
        linear = _linear(node, activation, operand)
        if not {linear.node, linear.output}.isdisjoint(self.keep_float):
            return "the policy keeps it in float"
        if min(linear.depth, linear.channels) < self.min_size:
            return (
                f"K = {linear.depth}, N = {linear.channels}: smaller than {self.min_size}, "
                "too small for an INT8 tile"
            )
        return self._refuse_rows(activation, rows) or linear

    def _refuse_rows(self, activation: ir.Value, rows: frozenset[str]) -> str | None:
        """A reason when the GEMM has so few rows that it only streams its weight."""
        if activation.shape is None:
            return None
        leading = [dim for dim in activation.shape[:-1] if dim != 1]
        sizes = [dim for dim in leading if isinstance(dim, int)]
        names = [dim.value for dim in leading if isinstance(dim, ir.SymbolicDim)]
        if not names:
            count = 1
            for size in sizes:
                count *= size
            return f"M = {count}: smaller than {self.min_size}" if count < self.min_size else None
        if not sizes and len(names) == 1 and names[0] in rows:
            return f"one row a text (M = {names[0]}): a pooler or classifier head, or a GEMV"
        return None

    def _check_names(self, graph: ir.Graph) -> None:
        known = {name for node in graph for name in (node.name, node.outputs[0].name)}
        unknown = [name for name in self.keep_float if name not in known]
        if unknown:
            raise PassError(
                f"quantisation policy: keep_float names {unknown[0]!r}, which is neither a node "
                "nor a tensor of the graph; list the nodes with fuselage inspect"
            )


def constant_operand(operand: ir.Value) -> tuple[ir.Value, bool] | None:
    """The constant behind an operand, and whether a 2-D Transpose stands in between."""
    if ir.convenience.get_const_tensor(operand) is not None:
        return operand, False
    producer = operand.producer()
    if producer is None or producer.domain or producer.op_type != "Transpose":
        return None
    source = producer.inputs[0]
    if source is None or ir.convenience.get_const_tensor(source) is None:
        return None
    # A 2-D Transpose without perm reverses the axes; [0, 1] would be an identity nobody writes.
    perm = producer.attributes.get_ints("perm", [1, 0])
    return (source, True) if tuple(perm) == (1, 0) else None


def _refuse_form(node: ir.Node) -> str | None:
    """A reason when the node is not ``activation @ constant matrix``."""
    left, right = node.inputs[0], node.inputs[1]
    if left is None or right is None:
        return "an operand is missing"
    if constant_operand(left) is not None:
        return "the constant is on the left: its scales would run along K"
    found = constant_operand(right)
    if found is None:
        return "both operands are activations: the attention core stays float"
    if node.attributes.get_int("transA", 0):
        return "Gemm with transA: the rows are not the tokens"
    return _refuse_weight(found[0])


def _refuse_weight(weight: ir.Value) -> str | None:
    tensor = ir.convenience.get_const_tensor(weight)
    assert tensor is not None
    if len(tensor.shape) != 2:
        return f"the constant has rank {len(tensor.shape)}, expected a matrix"
    if tensor.dtype not in _FLOATS:
        return f"the constant is {tensor.dtype.name}, not a float"
    if weight.is_graph_input():
        return "the weight is also a graph input, so a feed may replace it"
    return None


def _linear(node: ir.Node, activation: ir.Value, operand: ir.Value) -> Linear:
    found = constant_operand(operand)
    assert found is not None
    weight, transposed = found
    tensor = ir.convenience.get_const_tensor(weight)
    assert tensor is not None
    rows, columns = (int(size) for size in tensor.shape.numpy())
    if transposed:
        rows, columns = columns, rows
    swapped = bool(node.attributes.get_int("transB", 0))
    return Linear(
        node=_name(node),
        output=str(node.outputs[0].name),
        activation=str(activation.name),
        weight=str(weight.name),
        axis=0 if swapped else 1,
        transposed=transposed,
        depth=columns if swapped else rows,
        channels=rows if swapped else columns,
    )


def _text_axes(graph: ir.Graph) -> frozenset[str]:
    """Names of the axes that count texts: the first of token ids ``[batch, sequence]``.

    A float matrix ``[rows, channels]`` is packed tokens: its rows are no texts.
    """
    names = set()
    for value in graph.inputs:
        is_float = value.dtype is not None and value.dtype.is_floating_point()
        if value.shape is None or len(value.shape) < (3 if is_float else 2):
            continue
        first = value.shape[0]
        if isinstance(first, ir.SymbolicDim) and first.value:
            names.add(first.value)
    return frozenset(names)


def _is_quantized(node: ir.Node) -> bool:
    """True when an operand already comes out of a DequantizeLinear."""
    producers = [value.producer() for value in node.inputs[:2] if value is not None]
    return any(maker is not None and maker.op_type == "DequantizeLinear" for maker in producers)


def _name(node: ir.Node) -> str:
    return node.name or str(node.outputs[0].name)
