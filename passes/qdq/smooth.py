"""Move outlier channels of activations into weights, which have one INT8 scale a channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...errors import PassError
from ..base import Pass, PassResult, result
from ..constants import array_of, initializer
from .linears import (
    Floats,
    add_to_bias,
    insert_behind,
    replace_constant,
    scale_weight,
    weight_of,
)
from .policy import QuantPlan, QuantPolicy
from .sites import LinearSource, Site, bias_of, find_site, linear_source
from .transform import ChannelTransform


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """Divide an activation's channels by a scale and shift them; weights and biases undo it.

        x @ W + b  ->  (x / s - z) @ (s * W) + (z @ (s * W) + b)

    The function stays the same. All planned linears that read a tensor share the new one, named
    ``x/smoothed``. The division goes into what produces the tensor where that is legal (see
    `find_site`); else it is one Mul, and one Add of a scalar. Readers that are not planned keep
    the tensor ``x``: behind a normalisation it is computed back by one Mul, and its shift goes
    into the bias it is added to.

    Attributes:
        transforms: by name of the activation.
        policy: which linears are planned.

    Raises:
        PassError: when a transform has another number of channels than its tensor, or shifts
            what can only be scaled.
    """

    name: ClassVar[str] = "smooth-activations"
    required: ClassVar[bool] = True
    transforms: Mapping[str, ChannelTransform] = field(repr=False)
    policy: QuantPolicy = field(default_factory=QuantPolicy)

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        plan = self.policy.plan(model)
        groups = _groups(model.graph, plan)
        chosen = [name for name in plan.activations if name in self.transforms]
        for name in chosen:
            transform = self.transforms[name]
            # An earlier shift may have put the Add of a bias between a linear and its readers.
            x = groups[name][0].inputs[0]
            assert x is not None
            site = find_site(x, groups[name])
            _check(name, transform, site, weight_of(groups[name][0]).shape[0])
            _Smoother(model.graph, x, groups[name], transform).apply(site)
        return result(model, len(chosen))


def smoothed_name(activation: str) -> str:
    """What the linears read instead of the activation."""
    return f"{activation}/smoothed"


def _groups(graph: ir.Graph, plan: QuantPlan) -> dict[str, list[ir.Node]]:
    """The planned linears by the tensor they read."""
    nodes = {node.outputs[0].name: node for node in graph}
    groups: dict[str, list[ir.Node]] = {}
    for linear in plan.linears:
        groups.setdefault(linear.activation, []).append(nodes[linear.output])
    return groups


def _check(name: str, transform: ChannelTransform, site: Site, channels: int) -> None:
    if transform.scale.size != channels:
        raise PassError(
            f"tensor {name!r}: expected a transform of {channels} channels, "
            f"got {transform.scale.size}; it was made for another graph"
        )
    if site.shift == "none" and transform.shift.any():
        raise PassError(
            f"tensor {name!r}: the {site.name} in front of it can be scaled, but not shifted"
        )
    if site.tied is not None:
        first = np.zeros(int(site.tied.max()) + 1, np.float32)
        first[site.tied] = transform.scale
        if not np.array_equal(first[site.tied], transform.scale):
            raise PassError(
                f"tensor {name!r}: heads that share values need equal scales, got different ones"
            )


class _Smoother:
    """Applies one transform."""

    def __init__(
        self, graph: ir.Graph, x: ir.Value, readers: list[ir.Node], transform: ChannelTransform
    ) -> None:
        self._graph = graph
        self._x = x
        self._name = str(x.name)
        self._readers = readers
        self._scale, self._shift = transform.scale, transform.shift

    def apply(self, site: Site) -> None:
        if site.norm is not None:
            self._into_norm(site.norm)
        elif site.linear is not None:
            self._into_linear(site.linear, site)
        else:
            self._explicit()
        for reader in self._readers:
            self._undo_in(reader)

    def _into_norm(self, norm: ir.Node) -> None:
        replace_constant(self._graph, norm, 1, self._array(norm.inputs[1]) / self._scale)
        if len(norm.inputs) > 2 and norm.inputs[2] is not None:
            bias = self._array(norm.inputs[2]) / self._scale - self._shift
            replace_constant(self._graph, norm, 2, bias)
        elif self._shift.any():
            norm.resize_inputs(3)
            norm.replace_input_with(2, self._constant("bias", -self._shift))
        self._x.name = smoothed_name(self._name)
        self._restore()

    def _restore(self) -> None:
        """Give readers that are not planned the tensor as it was."""
        others = [
            (usage.node, usage.idx) for usage in self._x.uses() if usage.node not in self._readers
        ]
        if not others and not self._x.is_graph_output():
            return
        restored = self._behind("Mul", self._x, self._constant("scale", self._scale))
        restored.name = self._name
        for node, at in others:
            node.replace_input_with(at, restored)
        outputs = self._graph.outputs
        for at, output in enumerate(outputs):
            if output is self._x:
                outputs[at] = restored
        lost = self._shift * self._scale
        if not lost.any():
            return
        added_to = _other_addend(others[0][0], restored) if len(others) == 1 else None
        if added_to is not None and not restored.is_graph_output():
            add_to_bias(self._graph, added_to.gemm, lost)
        else:
            insert_behind(self._graph, restored, "Add", self._constant("offset", lost))

    def _into_linear(self, source: LinearSource, site: Site) -> None:
        """Scale the columns in front: behind an attention, those of the value projection."""
        scale = self._scale
        if site.tied is not None:
            scale = np.empty(int(site.tied.max()) + 1, np.float32)
            scale[site.tied] = self._scale
        gemm, add = source.gemm, source.add
        scale_weight(self._graph, gemm, columns=np.reciprocal(scale))
        if add is not None:
            at = bias_of(add)
            replace_constant(self._graph, add, at, self._array(add.inputs[at]) / scale)
        elif gemm.op_type == "Gemm" and len(gemm.inputs) > 2 and gemm.inputs[2] is not None:
            replace_constant(self._graph, gemm, 2, self._array(gemm.inputs[2]) / scale)
        self._x.name = smoothed_name(self._name)
        if self._shift.any():
            add_to_bias(self._graph, gemm, -self._shift)

    def _explicit(self) -> None:
        x = self._behind(
            "Mul", self._x, self._constant("inverse_scale", np.reciprocal(self._scale))
        )
        if self._shift.any():
            x.name = f"{self._name}/scaled"
            x = self._behind("Add", x, self._constant("shift", -self._shift))
        x.name = smoothed_name(self._name)
        for reader in self._readers:
            reader.replace_input_with(0, x)

    def _undo_in(self, reader: ir.Node) -> None:
        scale_weight(self._graph, reader, rows=self._scale)
        if self._shift.any():
            alpha = np.float32(reader.attributes.get_float("alpha", 1.0))
            add_to_bias(self._graph, reader, alpha * (self._shift @ weight_of(reader)))

    def _behind(self, op_type: str, x: ir.Value, constant: ir.Value) -> ir.Value:
        """A new node right behind the producer of `x` that nothing reads yet."""
        made = ir.Value(
            name=f"{constant.name}/applied",
            type=ir.TensorType(x.dtype or ir.DataType.FLOAT),
            shape=None if x.shape is None else x.shape.copy(),
        )
        node = ir.node(op_type, [x, constant], outputs=[made], name=f"{constant.name}/{op_type}")
        maker = x.producer()
        if maker is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(maker, node)
        return made

    def _constant(self, name: str, array: Floats) -> ir.Value:
        dtype = (self._x.dtype or ir.DataType.FLOAT).numpy()
        return initializer(self._graph, f"{self._name}/{name}", array.astype(dtype))

    @staticmethod
    def _array(value: ir.Value | None) -> Floats:
        array = array_of(value)
        assert array is not None
        return array.astype(np.float32)


def _other_addend(node: ir.Node, value: ir.Value) -> LinearSource | None:
    """The linear that is added to the value, whose output nothing else reads."""
    if node.op_type != "Add" or node.domain:
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    if other is None or len(other.uses()) != 1 or other.is_graph_output():
        return None
    source = linear_source(other)
    has_bias = source is not None and (source.add is not None or source.gemm.op_type == "Gemm")
    return source if has_bias else None
