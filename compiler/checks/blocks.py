"""Where a graph spells a block out, by criteria that owe nothing to the passes.

A pass that does not recognise a block does not count it either, so it would be lost in silence. The
criteria here are coarser than any rule: a softmax that reaches a product is an attention, whatever
lies between. They are asked of the graph before the passes and again of what is left.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
import onnx_ir.passes.common as common

from ...passes.normalize.clean_up import uninlinable

_MOVES = {"Cast", "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice"}
_GUARDS = _MOVES | {"Where", "IsNaN", "Dropout", "Mul", "Expand"}
_SCORES = _MOVES | {
    "Add", "Sub", "Mul", "Div", "Where", "Tanh", "Max", "Min", "Clip", "Softmax",
}  # fmt: skip
_KEYS = _MOVES | {"Mul", "Div", "Expand"}
_PRODUCTS = {"MatMul", "Einsum", "Gemm", "MatMulInteger", "FusedMatMul"}
_ROOTS = {"Sqrt", "Pow", "Reciprocal", "Rsqrt"}
_SMALL = 64
_CUBE = 0.044715
"""The coefficient of x^3 in the tanh approximation of GELU (arXiv 1606.08415)."""


def nodes_of(model: ir.Model) -> list[ir.Node]:
    """Nodes between an input and an output, those of functions and branches included.

    Of nodes that compute the same from the same the first stands for all, as a pass would have it:
    exporters repeat what layers share.
    """
    if model.functions and uninlinable(model) is None:
        model = model.clone()
        common.InlinePass()(model)
    wanted = (_live(model.graph) & _varying(model.graph)) - _repeated(model.graph)
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    return [node for node in nodes if node.graph is not model.graph or node in wanted]


def attentions(nodes: list[ir.Node]) -> list[ir.Node]:
    """Every softmax whose result is multiplied with something."""
    return [
        node
        for node in nodes
        if node.op_type == "Softmax"
        and any(user.op_type in _PRODUCTS for user in _behind(node.outputs[0], _GUARDS))
    ]


def repeated_keys(nodes: list[ir.Node]) -> list[ir.Node]:
    """Every attention, spelled out or not, whose key heads are copied to the number of queries."""
    return [node for node, keys in _keys(nodes) if any(map(_is_repeat, keys))]


def concatenated_caches(nodes: list[ir.Node]) -> list[ir.Node]:
    """Every attention, spelled out or not, whose keys begin with an input of the graph."""
    return [node for node, keys in _keys(nodes) if any(map(_appends_to_input, keys))]


def layer_norms(nodes: list[ir.Node]) -> list[ir.Node]:
    """Every root of the mean square of something from which its mean was subtracted."""
    return [node for node, squared in _norms(nodes) if _is_centred(squared)]


def rms_norms(nodes: list[ir.Node]) -> list[ir.Node]:
    """Every root of the mean square of something else."""
    return [node for node, squared in _norms(nodes) if not _is_centred(squared)]


def gelus(nodes: list[ir.Node]) -> list[ir.Node]:
    """Every error function, and every tanh of a polynomial with the coefficient of GELU."""
    return [
        node
        for node in nodes
        if node.op_type == "Erf" or (node.op_type == "Tanh" and _has_cube(node.inputs[0]))
    ]


def rotations(nodes: list[ir.Node]) -> list[ir.Node]:
    """Every concatenation of halves that are swapped and one of them negated."""
    return [node for node in nodes if _swaps_halves(node)]


def _live(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that an output or a branch depends on."""
    outputs, live = set(graph.outputs), set[ir.Node]()
    for node in reversed(graph):
        users = [use.node for value in node.outputs for use in value.uses()]
        if not outputs.isdisjoint(node.outputs) or any(
            user in live or user.graph is not graph for user in users
        ):
            live.add(node)
    return live


def _varying(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that depend on an input; the others are constants, which folding removes."""
    varying = {value for value in graph.inputs if not value.is_initializer()}
    nodes = set[ir.Node]()
    for node in graph:
        has_branch = any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
        if has_branch or not varying.isdisjoint(node.inputs):
            nodes.add(node)
            varying.update(node.outputs)
    return nodes


def _repeated(graph: ir.Graph) -> set[ir.Node]:
    """Nodes with the operator, attributes and inputs of an earlier one."""
    first_node: dict[object, ir.Node] = {}
    first_value: dict[ir.Value | None, ir.Value | None] = {}
    constants: dict[object, ir.Value | None] = {}
    repeated = set[ir.Node]()
    for node in graph:
        for value in node.inputs:
            if value not in first_value:
                first_value[value] = constants.setdefault(_content(value), value)
        inputs = tuple(first_value[value] for value in node.inputs)
        key = (node.domain, node.op_type, inputs, _attributes(node), len(node.outputs))
        first = first_node.setdefault(key, node)
        if first is node:
            continue
        repeated.add(node)
        first_value.update(zip(node.outputs, first.outputs, strict=True))
    return repeated


def _content(value: ir.Value | None) -> object:
    """What equal small constants have in common; anything else is equal to itself alone."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size > _SMALL or tensor.dtype == ir.DataType.STRING:
        return value
    return (tensor.dtype, tuple(tensor.shape.numpy()), tensor.numpy().tobytes())


def _attributes(node: ir.Node) -> object:
    """Attributes that can be compared; a node that has others, or draws numbers, is unique."""
    kinds = {attribute.type for attribute in node.attributes.values()}
    if kinds & {ir.AttributeType.GRAPH, ir.AttributeType.TENSOR} or "Random" in node.op_type:
        return node
    return tuple(sorted((name, str(node.attributes[name].value)) for name in node.attributes))


def _behind(value: ir.Value, through: set[str]) -> Iterator[ir.Node]:
    """Readers of the value, also behind the given operators."""
    seen, pending = {value}, [value]
    while pending:
        for user, _ in pending.pop().uses():
            yield user
            if user.op_type in through:
                fresh = [output for output in user.outputs if output not in seen]
                seen.update(fresh)
                pending += fresh


def _before(value: ir.Value | None, through: set[str], most: int = 64) -> Iterator[ir.Node]:
    """Producers of the value, also before the given operators, nearest first."""
    pending, seen = [value], set[ir.Node]()
    while pending and len(seen) < most:
        value = pending.pop(0)
        node = None if value is None else value.producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if node.op_type in through:
            pending += node.inputs


def _keys(nodes: list[ir.Node]) -> Iterator[tuple[ir.Node, list[ir.Node]]]:
    """(attention, what its keys come from up to the projection)."""
    for node in nodes:
        if node.op_type == "Attention" and not node.domain:
            yield node, list(_before(node.inputs[1], _KEYS))
    for node in attentions(nodes):
        product = next(
            (n for n in _before(node.inputs[0], _SCORES) if n.op_type in _PRODUCTS), None
        )
        if product is not None and len(product.inputs) > 1:
            yield node, list(_before(product.inputs[1], _KEYS))


def _is_repeat(node: ir.Node) -> bool:
    """Unsqueeze (or Reshape), Expand, Reshape: a new axis of copies becomes part of the heads."""
    if node.op_type != "Expand" or node.inputs[0] is None:
        return False
    source = node.inputs[0].producer()
    raised = source is not None and source.op_type in ("Unsqueeze", "Reshape")
    return raised and any(user.op_type == "Reshape" for user, _ in node.outputs[0].uses())


def _appends_to_input(node: ir.Node) -> bool:
    if node.op_type != "Concat" or len(node.inputs) != 2:
        return False
    first = node.inputs[0]
    sources = [first] + [value for n in _before(first, _MOVES) for value in n.inputs]
    return any(value is not None and value.is_graph_input() for value in sources)


def _norms(nodes: list[ir.Node]) -> Iterator[tuple[ir.Node, ir.Value | None]]:
    for node in nodes:
        if node.op_type != "ReduceMean":
            continue
        square = next(iter(_before(node.inputs[0], {"Cast"})), None)
        while square is not None and square.op_type == "Cast":
            square = square.inputs[0].producer() if square.inputs[0] is not None else None
        if square is None or not _is_square(square):
            continue
        if any(user.op_type in _ROOTS for user in _behind(node.outputs[0], {"Add", "Cast"})):
            yield node, square.inputs[0]


def _is_square(node: ir.Node) -> bool:
    if node.op_type == "Mul":
        return node.inputs[0] is node.inputs[1]
    return node.op_type == "Pow" and _scalar(node.inputs[1]) == 2.0


def _is_centred(value: ir.Value | None) -> bool:
    nearest = [node for node in _before(value, {"Cast"}) if node.op_type != "Cast"]
    return any(
        node.op_type == "Sub"
        and any(mean.op_type == "ReduceMean" for mean in _before(node.inputs[1], {"Cast"}))
        for node in nearest[:1]
    )


def _has_cube(value: ir.Value | None) -> bool:
    return any(
        (number := _scalar(operand)) is not None and abs(number - _CUBE) < 1e-3 * _CUBE
        for node in _before(value, {"Mul", "Add", "Cast"}, most=8)
        for operand in node.inputs
    )


def _swaps_halves(node: ir.Node) -> bool:
    """``Concat(-hi, lo)`` that is multiplied, or ``Concat(lo c - hi s, hi c + lo s)``."""
    if node.op_type != "Concat" or len(node.inputs) != 2:
        return False
    first, second = (None if v is None else v.producer() for v in node.inputs)
    if first is None or second is None:
        return False
    if first.op_type == "Neg":
        return any(user.op_type == "Mul" for user, _ in node.outputs[0].uses())
    products = [v.producer() for n in (first, second) for v in n.inputs if v is not None]
    operators = (first.op_type, second.op_type)
    return operators == ("Sub", "Add") and all(
        n is not None and n.op_type == "Mul" for n in products
    )


def _scalar(value: ir.Value | None) -> float | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    return float(tensor.numpy().reshape(()))
