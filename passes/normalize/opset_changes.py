"""Operators of the standard domain whose meaning changed between opset 11 and 23, and what to do.

An operator that is not listed changed in the dtypes it accepts, or got attributes and inputs that
may be left out; `tests/passes/test_raise_opset.py` derives that from the schemas of `onnx.defs`.

Source: https://github.com/onnx/onnx/blob/main/docs/Changelog.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..constants import initializer, int_attribute, ints_attribute
from ..shapes.facts import Facts


class Constants:
    """Integers for adapted nodes: one initializer of the main graph for each value."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._made: dict[int | tuple[int, ...], ir.Value] = {}
        inner = (value for node in model.graph.all_nodes() for value in node.outputs)
        self._taken = {value.name for value in (*model.graph.inputs, *inner)}

    def __getitem__(self, numbers: int | tuple[int, ...]) -> ir.Value:
        """The int64 constant, a scalar or a vector."""
        if numbers not in self._made:
            items = (numbers,) if isinstance(numbers, int) else numbers
            name = "_".join(("axis" if isinstance(numbers, int) else "ints", *map(str, items)))
            while name in self._taken:
                name += "_"
            self._made[numbers] = initializer(self._graph, name, np.array(numbers, np.int64))
        return self._made[numbers]


Adapt = Callable[[ir.Node, Constants], None]
Refuse = Callable[[ir.Node, Facts], str | None]


def _nothing(node: ir.Node, constants: Constants) -> None:
    """The node means the same; only some of its uses changed, which `refuse` names."""


def _accept(node: ir.Node, facts: Facts) -> str | None:
    del node, facts
    return None


@dataclass(frozen=True)
class Change:
    """One change of meaning.

    Attributes:
        opset: first version with the new meaning.
        adapt: rewrites a node of the old meaning in place.
        refuse: why a node cannot be adapted, or None.
    """

    opset: int
    adapt: Adapt = _nothing
    refuse: Refuse = _accept


def _input_from(attribute: str) -> Adapt:
    """An integer-list attribute became the second input; an empty one is an absent one."""

    def adapt(node: ir.Node, constants: Constants) -> None:
        numbers = ints_attribute(node, attribute)
        node.attributes.pop(attribute, None)
        if numbers:
            node.resize_inputs(max(2, len(node.inputs)))
            node.replace_input_with(1, constants[numbers])

    return adapt


def _count_parts(node: ir.Node, constants: Constants) -> None:
    """``Split`` without sizes says in how many parts."""
    del constants
    if len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


def _last_axis(node: ir.Node, constants: Constants) -> None:
    del constants
    node.attributes["axis"] = ir.AttrInt64("axis", -1)


def _is_not_last(node: ir.Node, facts: Facts) -> str | None:
    """Softmax used to flatten all axes from the given one on."""
    axis, shape = int_attribute(node, "axis", 1), facts[node.inputs[0]].shape
    if axis == -1 or (shape is not None and axis == len(shape) - 1):
        return None
    rank = "unknown rank" if shape is None else f"rank {len(shape)}"
    return f"it flattens the axes from {axis} on, which it no longer does (its input has {rank})"


def _forget_ratio(node: ir.Node, constants: Constants) -> None:
    """The old ratio counted in training alone, which the old operator could not be told to do."""
    del constants
    node.attributes.pop("ratio", None)


def _is_training(node: ir.Node, facts: Facts) -> str | None:
    del facts
    extra = sum(bool(value.uses()) for value in node.outputs[1:])
    return f"{extra} of its training outputs are read" if extra else None


def _drop_extra_outputs(node: ir.Node, constants: Constants) -> None:
    del constants
    node.resize_outputs(1)


def _name_old_default(node: ir.Node, constants: Constants) -> None:
    del constants
    name = "coordinate_transformation_mode"
    node.attributes.setdefault(name, ir.AttrString(name, "output_half_pixel"))


_MODES = {"bilinear": "linear", "bicubic": "cubic"}


def _rename_mode(node: ir.Node, constants: Constants) -> None:
    del constants
    mode = node.attributes.get("mode")
    old = "bilinear" if mode is None else mode.as_string()
    node.attributes["mode"] = ir.AttrString("mode", _MODES.get(old, old))


def _axis_to_input(node: ir.Node, constants: Constants) -> None:
    """``DFT`` reads its axis from a scalar."""
    axis = int_attribute(node, "axis", 1)
    node.attributes.pop("axis", None)
    node.resize_inputs(3)
    node.replace_input_with(2, constants[axis])


def _ceils(node: ir.Node, facts: Facts) -> str | None:
    del facts
    if not int_attribute(node, "ceil_mode", 0):
        return None
    return "with ceil_mode, windows that start in the padding are no longer counted"


def _is_dropped_mode(node: ir.Node, facts: Facts) -> str | None:
    del facts
    mode = node.attributes.get("coordinate_transformation_mode")
    if mode is None or mode.as_string() != "tf_half_pixel_for_nn":
        return None
    return "its mode tf_half_pixel_for_nn was removed"


def _has_group_parameters(node: ir.Node, facts: Facts) -> str | None:
    del node, facts
    return "its scale and bias were one a group and are one a channel now"


_AXES_18 = (Change(18, _input_from("axes")),)
_SOFTMAX = (Change(13, _last_axis, _is_not_last),)

CHANGES: dict[str, tuple[Change, ...]] = {
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
         "ReduceMin", "ReduceProd", "ReduceSumSquare"),
        _AXES_18,
    ),
    **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), (Change(13, _input_from("axes")),)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _SOFTMAX),
    "Split": (Change(13, _input_from("split")), Change(18, _count_parts)),
    "Dropout": (Change(12, _forget_ratio, _is_training),),
    "BatchNormalization": (Change(14, _drop_extra_outputs, _is_training),),
    "RoiAlign": (Change(16, _name_old_default),),
    "GridSample": (Change(20, _rename_mode),),
    "DFT": (Change(20, _axis_to_input),),
    "Resize": (Change(13, _nothing, _is_dropped_mode),),
    "AveragePool": (Change(19, _nothing, _ceils), Change(22, _nothing, _ceils)),
    "MaxPool": (Change(22, _nothing, _ceils),),
    "GroupNormalization": (Change(21, _nothing, _has_group_parameters),),
}  # fmt: skip
"""Operator -> its changes, oldest first."""
