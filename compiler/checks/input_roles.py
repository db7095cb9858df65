"""What the inputs of a graph are for, read from how the graph uses them rather than from names.

Exporters name inputs and symbolic dims as they like (``s70``, ``unk__0``, ``input.1``), give equal
sizes different symbols, and leave relations such as total = past + sequence unsaid. So what an
input is for follows from the operators it reaches, and the sizes are a proposal: `size_plans` lists
the likely ones first, and the graph itself decides which it accepts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from ...graph.model import Graph
from ...graph.tensors import Dim, TensorSpec

Kind = Literal["ids", "mask", "position", "cache", "image", "other"]
Role = Literal["batch", "sequence", "target", "past", "total", "image"]
SizePlan = Mapping[str, Role]
"""What each symbol of the inputs stands for."""

_ROLES: tuple[Role, ...] = ("sequence", "total", "past", "target", "batch")
_KEEPS_VALUES = {
    "Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Slice",
    "Expand",
}  # fmt: skip
_ROTATES = _KEEPS_VALUES | {"Mul", "MatMul", "Einsum", "Concat", "Add", "Sub"}
_COLOURS = (1, 3, 4)
_ANY_POSITION = 1 << 16


@dataclass(frozen=True)
class InputRole:
    """One input.

    Attributes:
        spec: name, dtype and dims.
        kind: ids index a table of constants, positions reach a sine, a cache has an axis that no
            input of tokens has; integers that do neither are a mask.
        limit: rows of the smallest table it indexes; 2 where it indexes none.
    """

    spec: TensorSpec
    kind: Kind
    limit: int = 2


def input_roles(graph: Graph) -> tuple[InputRole, ...]:
    """The role of every input, in graph order."""
    values = {value.name: value for value in graph.model.graph.inputs}
    integers = {
        spec.name: _integer_role(spec, values[spec.name])
        for spec in graph.inputs
        if "mask" in spec.name or spec.dtype[:1] in "iub"
    }
    has_ids = any(role.kind == "ids" for role in integers.values())
    known = {dim for role in integers.values() for dim in role.spec.dims}
    if not has_ids:  # vectors of tokens come in their place
        known |= {dim for spec in graph.inputs if len(spec.dims) == 3 for dim in spec.dims}
    return tuple(
        integers.get(spec.name) or InputRole(spec, _float_kind(spec, known, has_ids))
        for spec in graph.inputs
    )


def _integer_role(spec: TensorSpec, value: ir.Value) -> InputRole:
    rank = len(spec.dims)
    if "mask" in spec.name or spec.dtype == "bool":
        return InputRole(spec, "mask" if rank > 1 else "other")
    readers = _reached(value, _KEEPS_VALUES)
    rows = min((count for node, index in readers if (count := _rows(node, index))), default=0)
    rotated = any(node.op_type in ("Cos", "Sin") for node, _ in _reached(value, _ROTATES))
    if rotated or "position" in spec.name:
        return InputRole(spec, "position", rows or _ANY_POSITION)
    if rows:
        return InputRole(spec, "ids", rows)
    return InputRole(spec, "mask" if rank == 2 else "other")


def _float_kind(spec: TensorSpec, known: set[Dim], has_ids: bool) -> Kind:
    """A cache has a size that no input of tokens has: [batch, heads, past, size], or rank 3."""
    rank = len(spec.dims)
    own = any(isinstance(dim, str) and dim not in known for dim in spec.dims[1:])
    if rank == 4 and spec.dims[1] in _COLOURS and isinstance(spec.dims[3], str) and own:
        return "image"
    return "cache" if own and (rank == 4 or (rank == 3 and has_ids)) else "other"


def _reached(value: ir.Value, through: set[str]) -> Iterator[tuple[ir.Node, int]]:
    """(node, operand) of everything that reads the value, also behind the given operators."""
    seen, pending = {value}, [value]
    while pending:
        for use in pending.pop().uses():
            yield use.node, use.idx
            if use.node.op_type not in through:
                continue
            fresh = [output for output in use.node.outputs if output not in seen]
            seen.update(fresh)
            pending += fresh


def _rows(node: ir.Node, operand: int) -> int | None:
    """Rows of the constant table that a Gather looks the operand up in."""
    if node.op_type != "Gather" or operand != 1 or node.inputs[0] is None:
        return None
    table = ir.convenience.get_const_tensor(node.inputs[0])
    if table is None or not len(table.shape):
        return None
    axis = node.attributes.get("axis")
    return int(table.shape.numpy()[0 if axis is None else axis.as_int()])


def size_plans(roles: tuple[InputRole, ...]) -> Iterator[SizePlan]:
    """What the symbols may stand for, the likely plan first.

    After it: every axis but the first of one size; then one symbol at a time given another role.
    """
    likely = _likely(roles)
    yield likely
    yield {symbol: role if role == "batch" else "sequence" for symbol, role in likely.items()}
    for symbol, role in likely.items():
        for other in _ROLES:
            if other != role:
                yield {**likely, symbol: other}


def _likely(roles: tuple[InputRole, ...]) -> dict[str, Role]:
    plan: dict[str, Role] = {}
    cached = any(role.kind == "cache" for role in roles)
    order = ("ids", "position", "cache", "mask", "image", "other")
    axes = [
        (role, axis, dim)
        for role in sorted(roles, key=lambda role: order.index(role.kind))
        for axis, dim in enumerate(role.spec.dims)
        if isinstance(dim, str)
    ]
    # A symbol that stands alone tells more than one in a sum.
    for role, axis, dim in sorted(axes, key=lambda entry: len(_names(entry[2]))):
        for symbol in sorted(_names(dim) - plan.keys()):
            plan[symbol] = _symbol_role(role, axis, cached, set(plan.values()))
    return plan


def _symbol_role(role: InputRole, axis: int, cached: bool, taken: set[Role]) -> Role:
    if axis == 0 and len(role.spec.dims) > 1:
        return "batch"
    if role.kind == "ids":
        return "target" if "sequence" in taken else "sequence"
    if role.kind == "cache":
        return "past"
    if role.kind == "image":
        return "image"
    return "total" if role.kind == "mask" and cached else "sequence"


def _names(dim: str) -> set[str]:
    """The symbols of a dim, which may be a sum or a product of them (``s69 + s70``)."""
    tree = _parsed(dim)
    return {dim} if tree is None else {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}


def size_of(dim: str, sizes: Mapping[str, int]) -> int:
    """Size of a symbolic dim, from the sizes of its symbols."""
    tree = _parsed(dim)
    return sizes[dim] if tree is None else _value(tree.body, sizes)


def _parsed(dim: str) -> ast.Expression | None:
    """The dim as arithmetic, None when it is no such thing but a name of its own."""
    try:
        tree = ast.parse(dim, mode="eval")
        _value(tree.body, dict.fromkeys(_identifiers(tree), 1))
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None
    return tree if _identifiers(tree) else None


def _identifiers(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _value(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, sizes), _value(node.right, sizes)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.FloorDiv():
                return left // right
    raise ValueError(f"{ast.dump(node)} is no arithmetic of sizes")
