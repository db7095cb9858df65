"""Running the subgraph of a mask with the ONNX reference implementation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Array
from .cone import Cone, size_of
from .meaning import Miss

if TYPE_CHECKING:
    from onnx.reference import ReferenceEvaluator

_LARGEST_TABLE = 2**24  # elements of a constant; a causal table of 4096 positions


class Runner:
    """A cone, ready to run at any sizes."""

    def __init__(self, cone: Cone, opset: int) -> None:
        self._cone = cone
        self._evaluator = _evaluator(cone, opset)

    def __call__(self, contents: Array, numbers: Mapping[str, int]) -> Array:
        """The value of the root.

        Args:
            contents: what every graph input that is read holds.
            numbers: the size of every symbol.

        Raises:
            Miss: when it cannot be run.
        """
        feeds: dict[str, Array] = {
            value.name or "": np.array([size_of(dim, numbers) for dim in dims], np.int64)
            for value, dims in self._cone.sizes.items()
        }
        for value in self._cone.reads:
            assert value.dtype is not None
            feeds[value.name or ""] = contents.astype(value.dtype.numpy())
        try:
            # Fills overflow and -inf times 0 is NaN: numpy warns, the comparison tells.
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return np.asarray(self._evaluator.run(None, feeds)[0])
        except Exception as error:  # the reference evaluator raises whatever numpy raises
            at = ", ".join(f"{name}={number}" for name, number in sorted(numbers.items()))
            reason = " ".join(str(error).split())[:160]
            raise Miss(f"the mask cannot be evaluated at {at}: {reason}") from error


def _evaluator(cone: Cone, opset: int) -> ReferenceEvaluator:
    from onnx.reference import ReferenceEvaluator

    copies: dict[ir.Value, ir.Value] = {}
    for value in cone.sizes:
        copies[value] = _copy(value, ir.DataType.INT64)
    for value in cone.reads:
        copies[value] = _copy(value, value.dtype)
    if cone.root in copies or not cone.nodes:
        raise Miss(f"the mask is {cone.root.name!r} itself, which nothing computes")
    inputs = list(copies.values())
    constants = [_constant(value, cone, copies) for node in cone.nodes for value in node.inputs]
    nodes = [_copy_node(node, copies) for node in cone.nodes]
    graph = ir.Graph(
        inputs,
        [copies[cone.root]],
        nodes=nodes,
        initializers=[value for value in constants if value is not None],
        opset_imports={"": opset},
        name="mask",
    )
    copies[cone.root].type = ir.TensorType(cone.root.dtype or ir.DataType.FLOAT)
    return ReferenceEvaluator(ir.to_proto(ir.Model(graph, ir_version=10)))


def _copy(value: ir.Value, dtype: ir.DataType | None) -> ir.Value:
    if dtype is None:
        raise Miss(f"the type of {value.name!r} is unknown; infer shapes first")
    return ir.Value(name=value.name, type=ir.TensorType(dtype))


def _constant(
    value: ir.Value | None, cone: Cone, copies: dict[ir.Value, ir.Value]
) -> ir.Value | None:
    """A copy of a constant that has none yet; its tensor is shared."""
    if value is None or value in copies or value.producer() is not None:
        return None
    tensor = cone.replaced.get(value, value.const_value)
    if tensor is None:
        return None
    if tensor.size > _LARGEST_TABLE:
        raise Miss(f"the mask reads the constant {value.name!r} of shape {value.shape}")
    copies[value] = ir.Value(
        name=value.name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )
    return copies[value]


def _copy_node(node: ir.Node, copies: dict[ir.Value, ir.Value]) -> ir.Node:
    for output in node.outputs:
        copies[output] = ir.Value(name=output.name)
    return ir.Node(
        "",
        node.op_type,
        [None if value is None else copies[value] for value in node.inputs],
        node.attributes.values(),
        outputs=[copies[output] for output in node.outputs],
        name=node.name,
    )
