"""A walk along an encoder that finds what every value is to its tokens, or why that is unknown.

A graph can be packed when tokens meet in attention alone. Everything else must act on each token by
itself, count positions, or pool; an operator that is not known to do one of these is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from ..constants import array_of, int_attribute, ints_attribute, ints_of
from .layout import PackedInputs
from .pooling import pooled, resize
from .positions import count_within_text, gather_table, is_count, spread_count
from .roles import ELEMENTWISE, SHAPE_OPERATORS, Miss, Role, rank_of

_PER_TOKEN = ELEMENTWISE | {"Expand", "QuantizeLinear", "DequantizeLinear", "RotaryEmbedding"}
_LAST_AXIS = frozenset(
    {"LayerNormalization", "RMSNormalization", "LogSoftmax", "Softmax", "LpNormalization"}
)
_OF_DISTANCE = ELEMENTWISE | {"Expand", "Gather", "Squeeze", "Transpose", "Unsqueeze"}
_OF_TEXTS = ELEMENTWISE | _LAST_AXIS | {
    "Concat", "DequantizeLinear", "Flatten", "Gather", "Gemm", "MatMul", "QuantizeLinear",
    "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "Slice", "Split", "Squeeze",
}  # fmt: skip


@dataclass
class Walk:
    """The roles found so far.

    Attributes:
        inputs: of the packed graph.
        roles: value -> role.
        changed: nodes whose work is done by others now.
    """

    inputs: PackedInputs
    roles: dict[ir.Value, Role] = field(default_factory=dict)
    changed: int = 0

    def visit(self, node: ir.Node) -> None:
        """Find the role of a node's outputs, after those of its inputs.

        Raises:
            Miss: when it mixes tokens.
        """
        roles = [self.role(value) for value in node.inputs if value is not None]
        role = self._role(node, roles)
        for output in node.outputs:
            self.roles.setdefault(output, role)

    def role(self, value: ir.Value) -> Role:
        """Of a value that was visited."""
        if value.is_initializer() or value.const_value is not None:
            return Role.CONSTANT
        return self.roles[value]

    def _role(self, node: ir.Node, roles: list[Role]) -> Role:
        if node.domain or any(a.type in _SUBGRAPHS for a in node.attributes.values()):
            raise Miss("it is of no canonical operator")
        if node.op_type in ("Shape", "Size"):
            return Role.SIZE
        if Role.POOLED in roles:
            return self._of_texts(node, roles)
        if Role.TOKENS in roles:
            return self._of_tokens(node, roles)
        if Role.DISTANCE in roles:
            _expect(node, _OF_DISTANCE, "it changes distances of tokens")
            return Role.DISTANCE
        return self._of_sizes(node, roles)

    def _of_sizes(self, node: ir.Node, roles: list[Role]) -> Role:
        if set(roles) <= {Role.CONSTANT}:
            return Role.CONSTANT
        if node.op_type == "Range":
            return self._count(node)
        if node.op_type == "Slice" and roles[0] is Role.CONSTANT:
            by_position = gather_table(node, self.inputs)
            if by_position is not None and rank_of(node.outputs[0]) >= 1:
                return self._replace(node, by_position, Role.TOKENS)
        _expect(node, SHAPE_OPERATORS, "it makes something of the sequence's length")
        return Role.SIZE

    def _count(self, node: ir.Node) -> Role:
        if not is_count(node):
            raise Miss("it counts otherwise than 0, 1, 2, ...")
        tokens, distances = spread_count(node, self.inputs)
        self.changed += len(tokens)
        self.roles.update(dict.fromkeys(tokens, Role.TOKENS))
        self.roles.update(dict.fromkeys(distances, Role.DISTANCE))
        return Role.DISTANCE

    def _of_tokens(self, node: ir.Node, roles: list[Role]) -> Role:
        if Role.DISTANCE in roles and node.op_type != "Attention":
            raise Miss("it joins tokens with distances of tokens outside an attention")
        if node.op_type == "Attention" or node.op_type in _PER_TOKEN:
            self._check_broadcast(node)
            return Role.TOKENS
        if node.op_type == "CumSum":
            counted = count_within_text(node, self.inputs)
            self.changed += 1
            self.roles[counted] = Role.TOKENS
            return Role.TOKENS
        if node.op_type in ("Gather", "GatherElements") and roles[0] is not Role.TOKENS:
            return self._lookup(node)
        new = pooled(node, self.inputs)
        if new is not None:
            return self._replace(node, new, Role.POOLED)
        _check_axes(node)
        return Role.TOKENS

    def _lookup(self, node: ir.Node) -> Role:
        """Rows of a table by a number of each token."""
        if node.op_type == "Gather":
            if int_attribute(node, "axis", 0) != 0:
                raise Miss("it looks tokens up along another axis than the first")
            return Role.TOKENS
        table, index = node.inputs
        expand = None if table is None else table.producer()
        table = expand.inputs[0] if expand is not None and expand.op_type == "Expand" else table
        rows = array_of(table)
        if rows is None or rows.ndim != 2 or rows.shape[0] != 1 or index is None:
            raise Miss("it looks tokens up in a table of each row")
        flat = self.inputs.constant("table", rows[0], rows.dtype.type)
        found = self.inputs.tape.op("Gather", [flat, index])
        return self._replace(node, found, Role.TOKENS)

    def _of_texts(self, node: ir.Node, roles: list[Role]) -> Role:
        if {Role.TOKENS, Role.DISTANCE} & set(roles):
            raise Miss("it joins pooled texts with tokens")
        if Role.SIZE in roles:
            if node.op_type not in ("Expand", "Reshape") or roles[0] is not Role.POOLED:
                raise Miss("it joins pooled texts with sizes")
            texts, sizes = node.inputs
            assert texts is not None
            assert sizes is not None
            node.replace_input_with(1, resize(sizes, texts, self.inputs))
            return Role.POOLED
        _expect(node, _OF_TEXTS, "it works on pooled texts in an unknown way")
        _keep_first_axis(node)
        return Role.POOLED

    def _replace(self, node: ir.Node, new: ir.Value, role: Role) -> Role:
        old = node.outputs[0]
        new.type = new.type or old.type
        if new.shape is None:
            new.shape = ir.Shape([None, None, *list(old.shape or ())[2:]])
        if old.is_graph_output():
            old.name, new.name = f"{old.name}_unpacked", old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        self.roles[new] = role
        self.changed += 1
        return role

    def _check_broadcast(self, node: ir.Node) -> None:
        """Rows and tokens must meet rows and tokens."""
        if node.op_type in ("Attention", "RotaryEmbedding", "Expand"):
            return
        rank = rank_of(node.outputs[0])
        for value in node.inputs:
            if value is None or node.op_type.endswith("Linear"):
                continue
            own = rank_of(value)
            if self.role(value) is Role.TOKENS:
                if own != rank:
                    raise Miss(f"it joins tokens of {own} with tokens of {rank} axes")
            elif any(dim != 1 for dim in list(value.shape or ())[: max(0, own - rank + 2)]):
                raise Miss("a constant differs from token to token of a row")


_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _expect(node: ir.Node, known: Iterable[str], reason: str) -> None:
    if node.op_type not in known:
        raise Miss(reason)


def _check_axes(node: ir.Node) -> None:
    """A node that works within each token: along axes behind the first two."""
    source = node.inputs[0]
    rank = rank_of(source)
    if node.op_type == "MatMul":
        weight = node.inputs[1]
        if array_of(weight) is None and rank_of(weight) != 2:
            raise Miss("it multiplies tokens by tokens outside an attention")
        return
    if node.op_type == "Reshape":
        shape = ints_of(node.inputs[1])
        if shape is None or shape[:2] != (0, 0) or -1 in shape[:2]:
            raise Miss("it may move tokens")
        return
    axes = _axes_of(node, rank)
    if axes is None or min(axes, default=0) < 2:
        raise Miss("it is not known to work on each token by itself")


def _axes_of(node: ir.Node, rank: int) -> list[int] | None:
    """Axes along which a node works; None when unknown."""
    kind = node.op_type
    if kind in _LAST_AXIS or kind in ("Split", "Concat", "Gather"):
        default = 0 if kind in ("Split", "Gather") else -1
        return [int_attribute(node, "axis", default) % rank]
    if kind in ("Squeeze", "Unsqueeze", "Slice") or kind.startswith("Reduce"):
        index = 3 if kind == "Slice" else 1
        axes = ints_of(node.inputs[index]) if len(node.inputs) > index else None
        extra = 0 if kind != "Unsqueeze" or axes is None else len(axes)
        return None if axes is None else [axis % (rank + extra) for axis in axes]
    if kind == "Transpose":
        order = ints_attribute(node, "perm")
        return None if order[:2] != (0, 1) else [2]
    return None


def _keep_first_axis(node: ir.Node) -> None:
    """A node on [texts, ...] that leaves texts apart."""
    rank = rank_of(node.inputs[0])
    if node.op_type in ELEMENTWISE or node.op_type in ("MatMul", "Flatten"):
        return
    if node.op_type == "Gemm":
        if int_attribute(node, "transA", 0):
            raise Miss("it mixes texts")
        return
    if node.op_type.endswith("Linear"):
        return
    axes = _axes_of(node, rank)
    if axes is None or min(axes, default=0) < 1:
        raise Miss("it mixes texts")
