"""Write sizes into a graph: from the inputs that have them, each size once.

[batch, sequence, 64]     ->  Concat(Shape<0, 2>(input_ids), [64])
past + sequence           ->  Add(Shape<2, 3>(past_key), Shape<1, 2>(input_ids))
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Dim
from ..constants import initializer, int_attribute, ints_attribute, producer
from . import algebra
from .facts import Facts

Form = tuple[object, ...]
"""How a vector or scalar of sizes is written: an operator's name and what it reads."""

_DEEPEST = 16
"""Deeper arithmetic was not written here."""


class SizeWriter:
    """Writes sizes of one graph in their one form, in front of all other nodes."""

    def __init__(self, graph: ir.Graph, facts: Facts) -> None:
        self._graph = graph
        self._last: ir.Node | None = None
        self._made: dict[Form, ir.Value] = {}
        self._sources: dict[Dim, tuple[ir.Value, int]] = {}
        self._shapes = {value: facts[value].shape or () for value in graph.inputs}
        for value, shape in self._shapes.items():
            if value.is_initializer():
                continue
            for axis, dim in enumerate(shape):
                if isinstance(dim, str):
                    self._sources.setdefault(dim, (value, axis))

    def rewritten(
        self, old: ir.Value, content: tuple[Dim, ...], *, scalar: bool
    ) -> ir.Value | None:
        """A value that holds the content in its one form.

        Args:
            old: an int64 value that holds the content now.
            content: sizes, each a number, a name or a polynomial.
            scalar: whether the value has rank 0; it holds one size then.

        Returns:
            None when `old` has that form already, or when a size is no input's.
        """
        form = self._vector(content)
        if form is None:
            return None
        if scalar:
            form = ("number", *content) if isinstance(content[0], int) else ("Squeeze", form)
        if form == _form_of(old, _DEEPEST):
            return None
        return self._write(form, old.name or "size")

    def _vector(self, content: tuple[Dim, ...]) -> Form | None:
        parts: list[Form] = []
        place = 0
        while place < len(content):
            found = self._part(content, place)
            if found is None:
                return None
            form, length = found
            parts.append(form)
            place += length
        if not parts:
            return ("numbers",)
        return parts[0] if len(parts) == 1 else ("Concat", *parts)

    def _part(self, content: tuple[Dim, ...], place: int) -> tuple[Form, int] | None:
        """The longest form that starts at a place, and how many sizes it gives."""
        numbers = _leading_numbers(content[place:])
        if numbers:
            return ("numbers", *numbers), len(numbers)
        source = self._sources.get(content[place])
        if source is None:
            form = self._sum(content[place])
            return None if form is None else (form, 1)
        value, axis = source
        shape, length = self._shapes[value], 1
        while (
            axis + length < len(shape)
            and place + length < len(content)
            and isinstance(shape[axis + length], str)
            and shape[axis + length] == content[place + length]
            and self._sources[content[place + length]] == (value, axis + length)
        ):
            length += 1
        return ("Shape", value, axis, axis + length), length

    def _sum(self, dim: Dim) -> Form | None:
        total: Form | None = None
        for atoms, factor in algebra.terms_of(dim):
            term: Form | None = ("numbers", factor) if not atoms or factor != 1 else None
            for atom in atoms:
                source = self._sources.get(atom)
                if source is None:
                    return None
                size: Form = ("Shape", source[0], source[1], source[1] + 1)
                term = size if term is None else ("Mul", size, term)
            total = term if total is None or term is None else ("Add", total, term)
        return total

    def _write(self, form: Form, name: str) -> ir.Value:
        if form not in self._made:
            self._made[form] = self._node(form, name)
        return self._made[form]

    def _node(self, form: Form, name: str) -> ir.Value:
        kind, *parts = form
        if kind in ("number", "numbers"):
            array = np.array(parts[0] if kind == "number" else parts, np.int64)
            return initializer(self._graph, f"{name}.size", array)
        attributes: dict[str, int] = {}
        if kind == "Shape":
            source, start, end = parts
            inputs, attributes = [source], {"start": start, "end": end}  # type: ignore[dict-item]
        else:
            inputs = [self._write(part, name) for part in parts if isinstance(part, tuple)]
            attributes = {"axis": 0} if kind == "Concat" else {}
        node = ir.node(str(kind), inputs, attributes or None)  # type: ignore[arg-type]
        if self._last is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(self._last, node)
        self._last = node
        made = node.outputs[0]
        made.type = ir.TensorType(ir.DataType.INT64)
        made.shape = ir.Shape([] if kind == "Squeeze" else [_length(form)])
        return made


def _length(form: Form) -> int:
    """How many sizes a form gives."""
    kind, *parts = form
    if kind == "Shape":
        _, start, end = parts
        return end - start  # type: ignore[no-any-return, operator]
    if kind == "Concat":
        return sum(_length(part) for part in parts if isinstance(part, tuple))
    return len(parts) if kind == "numbers" else 1


def _leading_numbers(content: tuple[Dim, ...]) -> tuple[int, ...]:
    numbers: list[int] = []
    for item in content:
        if not isinstance(item, int):
            break
        numbers.append(item)
    return tuple(numbers)


def _form_of(value: ir.Value | None, depth: int) -> Form | None:
    """How a value is written, None when in a way that is not used here."""
    if value is None or not depth:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        array = tensor.numpy()
        kind = "numbers" if array.ndim else "number"
        return (kind, *(int(item) for item in array.reshape(-1)))
    node = producer(value, "Shape", "Concat", "Add", "Mul", "Squeeze")
    if node is None:
        return None
    if node.op_type == "Shape":
        end = int_attribute(node, "end", 0)
        return ("Shape", node.inputs[0], int_attribute(node, "start", 0), end)
    if node.op_type == "Squeeze" and (len(node.inputs) > 1 or ints_attribute(node, "axes")):
        return None
    return (node.op_type, *(_form_of(part, depth - 1) for part in node.inputs))
