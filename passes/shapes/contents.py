"""What small integer and boolean tensors hold: the arithmetic exporters do on shapes."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ...graph.tensors import Dim
from ..constants import int_attribute
from . import algebra
from .facts import INTEGERS, LONGEST_CONTENT, Fact, Facts

Content = tuple[Dim | None, ...]
Rule = Callable[[ir.Node, list[Fact], Fact], Content | None]


def content_of(node: ir.Node, inputs: list[Fact], output: Fact, facts: Facts) -> Content | None:
    """The elements of the first output, or None.

    Args:
        node: a node of the standard domain.
        inputs: facts of its inputs.
        output: dtype and shape of its first output.
        facts: holds the names found equal.
    """
    rule = _RULES.get(node.op_type)
    if rule is None or output.dtype not in INTEGERS or output.shape is None:
        return None
    size = algebra.product_of(output.shape)
    if len(output.shape) > 1 or not isinstance(size, int) or size > LONGEST_CONTENT:
        return None
    content = rule(node, inputs, output)
    if content is None or len(content) != size:
        return None
    return tuple(None if item is None else algebra.renamed(item, facts.names) for item in content)


def _shape(node: ir.Node, inputs: list[Fact], _: Fact) -> Content | None:
    dims = inputs[0].shape
    if dims is None:
        return None
    start, end = int_attribute(node, "start", 0), int_attribute(node, "end", len(dims))
    return dims[slice(*slice(start, end).indices(len(dims)))]


def _size(_node: ir.Node, inputs: list[Fact], _: Fact) -> Content | None:
    return None if inputs[0].shape is None else (algebra.product_of(inputs[0].shape),)


def _same(_node: ir.Node, inputs: list[Fact], _: Fact) -> Content | None:
    return inputs[0].content


def _cast(_node: ir.Node, inputs: list[Fact], output: Fact) -> Content | None:
    content = inputs[0].content
    if content is None or inputs[0].dtype == output.dtype or output.dtype == ir.DataType.INT64:
        return content
    if output.dtype == ir.DataType.INT32:
        return tuple(i if not isinstance(i, int) or abs(i) < 2**31 else None for i in content)
    return None


def _gather(node: ir.Node, inputs: list[Fact], _: Fact) -> Content | None:
    data, indices = inputs[0].content, inputs[1].ints()
    if data is None or indices is None or int_attribute(node, "axis", 0) not in (0, -1):
        return None
    if any(not -len(data) <= index < len(data) for index in indices):
        return None
    return tuple(data[index] for index in indices)


def _slice(_node: ir.Node, inputs: list[Fact], _: Fact) -> Content | None:
    data = inputs[0].content
    bounds = [fact.ints() for fact in inputs[1:]]
    if data is None or len(bounds) < 2 or bounds[0] is None or bounds[1] is None:
        return None
    steps = bounds[3] if len(bounds) > 3 else (1,)
    if not len(bounds[0]) == len(bounds[1]) == 1 or steps is None or steps[:1] in ((), (0,)):
        return None
    return data[_span(bounds[0][0], bounds[1][0], steps[0], len(data))]


def _span(start: int, end: int, step: int, size: int) -> slice:
    """ONNX and Python agree, but for an end before the first element of a backward slice."""
    last = None if step < 0 and end < -size else end
    return slice(start, last, step)


def _concat(_node: ir.Node, inputs: list[Fact], _: Fact) -> Content | None:
    joined: Content = ()
    for fact in inputs:
        if fact.content is None:
            return None
        joined += fact.content
    return joined


def _expand(_node: ir.Node, inputs: list[Fact], output: Fact) -> Content | None:
    content, size = inputs[0].content, algebra.product_of(output.shape or ())
    if content is None or not isinstance(size, int):
        return None
    return content * size if len(content) == 1 else content


def _filled(node: ir.Node, _inputs: list[Fact], output: Fact) -> Content | None:
    size, value = algebra.product_of(output.shape or ()), node.attributes.get("value")
    number = int(value.as_tensor().numpy().reshape(-1)[0]) if value is not None else 0
    return (number,) * size if isinstance(size, int) else None


def _range(_node: ir.Node, inputs: list[Fact], _: Fact) -> Content | None:
    bounds = [fact.ints() for fact in inputs]
    if any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    start, limit, delta = (bound[0] for bound in bounds if bound is not None)
    steps = range(start, limit, delta) if delta else range(LONGEST_CONTENT + 1)
    return tuple(steps) if len(steps) <= LONGEST_CONTENT else None


def _product(_node: ir.Node, inputs: list[Fact], output: Fact) -> Content | None:
    whole = inputs[0].content is not None and algebra.product_of(output.shape or ()) == 1
    return (algebra.product_of(inputs[0].content or ()),) if whole else None


def _quotient(left: Dim, right: Dim) -> Dim | None:
    if isinstance(left, int) and isinstance(right, int) and right:
        quotient = abs(left) // abs(right)  # ONNX truncates
        return quotient if (left < 0) == (right < 0) else -quotient
    return algebra.divide(left, right)


def _equal(left: Dim, right: Dim) -> Dim | None:
    if left == right:
        return 1
    difference = algebra.subtract(left, right)
    if difference is None:
        return None
    apart = algebra.lowest(difference) > 0 or algebra.highest(difference) < 0
    return 0 if apart else None


def _less(left: Dim, right: Dim) -> Dim | None:
    difference = algebra.subtract(left, right)
    if difference is None:
        return None
    if algebra.highest(difference) < 0:
        return 1
    return 0 if algebra.lowest(difference) >= 0 else None


def _negated(truth: Dim | None) -> Dim | None:
    return 1 - truth if isinstance(truth, int) else None


def _both(left: Dim | None, right: Dim | None) -> Dim | None:
    if left == 0 or right == 0:
        return 0
    return 1 if left == right == 1 else None


def _either(left: Dim | None, right: Dim | None) -> Dim | None:
    return _negated(_both(_negated(left), _negated(right)))


def _choice(truth: Dim | None, yes: Dim | None, no: Dim | None) -> Dim | None:
    if yes == no:
        return yes
    return None if truth is None else (yes if truth == 1 else no)


def _strict(rule: Callable[[Dim, Dim], Dim | None]) -> Callable[[Dim | None, Dim | None], object]:
    return lambda left, right: None if left is None or right is None else rule(left, right)


def _each(rule: Callable[..., object]) -> Rule:
    """Apply a rule to the elements of all inputs, single elements repeated."""

    def apply(_node: ir.Node, inputs: list[Fact], output: Fact) -> Content | None:
        size = algebra.product_of(output.shape or ())
        if not isinstance(size, int):
            return None
        columns: list[Content] = []
        for fact in inputs:
            content: Content = (None,) * size if fact.content is None else fact.content
            columns.append(content * size if len(content) == 1 else content)
        if any(len(column) != size for column in columns):
            return None
        return tuple(rule(*row) for row in zip(*columns, strict=True))  # type: ignore[misc]

    return apply


def _reduced(node: ir.Node, inputs: list[Fact], output: Fact) -> Content | None:
    del node
    total: Dim | None = 0
    for item in inputs[0].content or (None,):
        total = None if item is None or total is None else algebra.add(total, item)
    return (total,) if algebra.product_of(output.shape or ()) == 1 else None


_RULES: dict[str, Rule] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Reshape": _same,
    "Squeeze": _same,
    "Unsqueeze": _same,
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Expand": _expand,
    "ConstantOfShape": _filled,
    "Range": _range,
    "ReduceProd": _product,
    "ReduceSum": _reduced,
    "Add": _each(_strict(algebra.add)),
    "Sub": _each(_strict(algebra.subtract)),
    "Mul": _each(_strict(algebra.multiply)),
    "Div": _each(_strict(_quotient)),
    "Min": _each(_strict(algebra.smaller)),
    "Max": _each(_strict(algebra.larger)),
    "Neg": _each(lambda item: None if item is None else algebra.multiply(item, -1)),
    "Equal": _each(_strict(_equal)),
    "Less": _each(_strict(_less)),
    "Greater": _each(_strict(lambda left, right: _less(right, left))),
    "LessOrEqual": _each(_strict(lambda left, right: _negated(_less(right, left)))),
    "GreaterOrEqual": _each(_strict(lambda left, right: _negated(_less(left, right)))),
    "Not": _each(_negated),
    "And": _each(_both),
    "Or": _each(_either),
    "Where": _each(_choice),
}
