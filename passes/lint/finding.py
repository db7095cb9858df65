"""What a rule is given to look at, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import onnx_ir as ir
import onnx_ir.passes.common as common

from ..presets import Precision

Target = Literal["tensorrt", "tensorrt-rtx"]
Severity = Literal["error", "warning"]
Hit = tuple[str, str]
"""Name of the node (or of the input or constant), and the message."""

_LOWERED = {
    "fp16": ir.DataType.FLOAT16,
    "int8": ir.DataType.FLOAT16,  # Q/DQ sits on a 16-bit body
    "int8-weight-only": ir.DataType.FLOAT16,
    "fp8": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
}


@dataclass(frozen=True)
class Finding:
    """One trap in a graph.

    Attributes:
        rule: name of the rule, for example ``attention-softcap``.
        severity: ``error`` when TensorRT refuses the graph, crashes on it or computes something
            else than ONNX says; ``warning`` when it is slower, or fails on some GPUs or sizes.
        node: name of the node, or of its first output when it has none; of the input or the
            constant where the trap is no node.
        message: what was found; what TensorRT does with it; what to do.
    """

    rule: str
    severity: Severity
    node: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A graph under inspection: functions inlined, types and shapes inferred where they can be.

    Attributes:
        model: a copy where anything had to be inferred; tensors are shared.
        target: whose parser reads it.
        precision: what float32 is going to be lowered to; None takes the types as they are.
        compute_capabilities: the GPUs the engine is for, such as ``SM89``.
    """

    model: ir.Model
    target: Target
    precision: Precision | None
    compute_capabilities: tuple[str, ...]

    @cached_property
    def nodes(self) -> tuple[ir.Node, ...]:
        """Every node, those of subgraphs too, in graph order."""
        return tuple(self.model.graph.all_nodes())

    @cached_property
    def inputs(self) -> tuple[ir.Value, ...]:
        """Inputs of the graph; an initializer that old exporters list here too is none."""
        return tuple(value for value in self.model.graph.inputs if not value.is_initializer())

    @cached_property
    def input_symbols(self) -> frozenset[str]:
        """Names of the dynamic axes of the inputs."""
        dims = (dim for value in self.inputs for dim in value.shape or ())
        return frozenset(dim.value for dim in dims if not isinstance(dim, int) and dim.value)

    def of_type(self, *op_types: str) -> Iterator[ir.Node]:
        """Nodes of the standard domain with one of the operators."""
        for node in self.nodes:
            if node.op_type in op_types and node.domain in ("", "ai.onnx"):
                yield node

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """The dtype of a value once the graph is lowered; None when it is not known."""
        dtype = None if value is None else value.dtype
        if dtype == ir.DataType.FLOAT and self.precision is not None:
            return _LOWERED.get(self.precision, dtype)
        return dtype


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One trap.

    Attributes:
        name: in kebab case; the rule's key in reports and in the documentation.
        severity: of each of its findings.
        title: one line for the documentation.
        check: yields the name and message of every occurrence.
    """

    name: str
    severity: Severity
    title: str
    check: Callable[[Subject], Iterator[Hit]]


def inspected(model: ir.Model) -> ir.Model:
    """A copy with functions inlined and types inferred; what cannot be inferred stays unknown."""
    copy = model.clone()
    if copy.functions:
        common.InlinePass()(copy)
    results = [value for node in copy.graph for value in node.outputs]
    if any(value.dtype is None or value.shape is None for value in results):
        # Neither strict nor checking: what is wrong with the graph is for the rules to say.
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy)
    return copy


def name_of(node: ir.Node) -> str:
    """The node's name, or else the name of its first output."""
    return node.name or next((str(value.name) for value in node.outputs if value.name), "?")


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """An input of a node, None when it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None
