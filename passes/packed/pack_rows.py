"""Let several texts share a row: the inputs, the masks, the positions and the pooling of a graph.

    input_ids, attention_mask [, token_type_ids]    [batch, sequence]
      ->  input_ids, segment_ids, position_ids, slots [, token_type_ids]    [rows, length]

Each text of a row attends to itself alone, its positions begin at 0, and it is pooled by itself, so
it is answered as if it were alone (`layout.py` has the inputs, `docs/packed.md` the whole). Holds
for encoders of which tokens meet in canonical attention alone; everything else is refused with the
node and the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common

from ...errors import PassError
from ..base import Pass, PassResult, result
from ..normalize.infer_shapes import forget_declared
from .attention_masks import read_masks, write_masks
from .layout import LENGTH, ROWS, SEGMENTS, TEXTS, PackedInputs, take_inputs
from .roles import Miss, Role
from .walk import Walk


@dataclass(frozen=True)
class PackRows(Pass):
    """Pack a canonical encoder; changes its inputs, so nothing is compared with what was before."""

    name = "pack-rows"
    min_opset = 23
    required = True

    @property
    def tolerance(self) -> float | None:
        """The inputs are others; `compiler/checks/packed.py` compares text by text."""
        return None

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph.

        Raises:
            PassError: when it cannot be packed, with the node and the reason.
        """
        graph = model.graph
        if any(value.name == SEGMENTS for value in graph.inputs):
            return result(model, 0)
        masks = read_masks(graph)
        inputs = take_inputs(graph)
        biases = write_masks(masks, inputs)
        _settle(model, inputs)
        walk = Walk(inputs)
        walk.roles.update(dict.fromkeys(graph.inputs, Role.TOKENS))
        own = set(inputs.tape.nodes)
        for node in own:
            role = Role.SIZE if node.op_type == "Shape" else Role.TOKENS
            walk.roles.update(dict.fromkeys(node.outputs, role))
        for node in tuple(graph):
            if node not in own:
                _visit(walk, node)
        for bias in biases:
            if walk.role(bias) not in (Role.DISTANCE, Role.CONSTANT):
                raise PassError(
                    f"value {bias.name}: this bias of an attention is not a function of the "
                    "distance of two tokens; texts of one row would get that of others"
                )
        _settle(model, inputs)
        _name_outputs(graph, walk)
        return result(model, walk.changed + len(biases) + 1)


def _visit(walk: Walk, node: ir.Node) -> None:
    try:
        walk.visit(node)
    except Miss as miss:
        raise PassError(f"node {node.name or node.op_type} ({node.op_type}): {miss}") from miss


def _settle(model: ir.Model, inputs: PackedInputs) -> None:
    """Put the recorded nodes into the graph, and everything in order."""
    new = [node for node in inputs.tape.nodes if node.graph is None]
    first = model.graph[0]
    model.graph.insert_before(first, new)
    common.RemoveUnusedNodesPass()(model)
    model.graph.sort()


def _name_outputs(graph: ir.Graph, walk: Walk) -> None:
    forget_declared(graph)
    for value in graph.outputs:
        role, dims = walk.role(value), list(value.shape or ())
        if role is Role.POOLED:
            value.shape = ir.Shape([TEXTS, *dims[1:]])
        elif role is Role.TOKENS:
            value.shape = ir.Shape([ROWS, LENGTH, *dims[2:]])
        else:
            raise PassError(f"output {value.name}: it holds neither tokens nor texts")
