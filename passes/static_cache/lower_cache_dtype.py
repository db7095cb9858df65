"""Keep static caches in the dtype the graph computes in.

    Cast(past) -> TensorScatter -> Cast -> present    becomes    past -> TensorScatter -> present

A cache in float32 around a 16-bit body would be cast as a whole at every token, and TensorRT
updates a cache in place only when it is an input and an output of the network itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..constants import producer, remove_dead


@dataclass(frozen=True)
class LowerCacheDtype(Pass):
    """Give caches, inputs and outputs of the graph, the dtype of what writes them."""

    name = "lower-cache-dtype"
    min_opset = 24
    required: ClassVar[bool] = True

    @property
    def tolerance(self) -> None:
        """The caches have another dtype afterwards, so the same inputs do not fit."""
        return

    def requires(self, model: ir.Model) -> None:
        """Any graph will do: one without static caches has nothing to rewrite."""

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            if node.op_type != "TensorScatter" or node.domain not in ("", "ai.onnx"):
                continue
            reason = _take_casts_away(model.graph, node)
            if reason is None:
                rewrites += 1
            elif reason:
                refusals.append(Refusal(self.name, node.name or "?", reason))
        return result(model, rewrites, tuple(refusals))


def _take_casts_away(graph: ir.Graph, node: ir.Node) -> str | None:
    """None when rewritten, empty when there is nothing to do, else why it cannot be."""
    past, present = node.inputs[0], node.outputs[0]
    before = producer(past, "Cast")
    after = [
        use.node
        for use in present.uses()
        if use.node.op_type == "Cast" and use.node.outputs[0].is_graph_output()
    ]
    if before is None and not after:
        return ""
    cache = None if before is None else before.inputs[0]
    if before is None or cache is None or not cache.is_graph_input() or len(after) != 1:
        return "it is cast on one side only, expected a cache that is an input and an output"
    if len(cache.uses()) != 1 or len(before.outputs[0].uses()) != 1:
        return f"the cache {cache.name!r} is read by others too"
    # Not `cache.dtype = ...`: clones share the type object with the original.
    cache.type = ir.TensorType(present.dtype or ir.DataType.FLOAT16)
    node.replace_input_with(0, cache)
    written = after[0].outputs[0]
    name = written.name
    graph.outputs[graph.outputs.index(written)] = present
    written.name, present.name = f"{name}.wide", name
    remove_dead(before, after[0])
    return None
