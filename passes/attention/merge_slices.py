"""Turn slices that part a tensor's last axis without gaps into one Split.

    x[..., :a], x[..., a:b], x[..., b:]  ->  Split(x, [a, b - a, width - b])

Exporters write queries, keys and values of one product, and the two halves of gated feed-forward
blocks, in both ways.

Source: https://onnx.ai/onnx/operators/onnx__Split.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..base import Pass, PassResult, result
from ..constants import initializer, insert_before, remove_dead, replace_value
from ..last_axis import Part, part_of


@dataclass(frozen=True)
class MergeSlices(Pass):
    """Replace at least two slices that hold every column once."""

    name = "merge-slices"
    min_opset = 13

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites = 0
        seen: set[ir.Value] = set()
        for node in tuple(model.graph):
            source = node.inputs[0] if node.op_type == "Slice" and not node.domain else None
            if node.graph is None or source is None or source in seen:
                continue
            seen.add(source)
            parts = _partition(source, model.graph)
            if parts:
                _split(model.graph, node, source, parts)
                rewrites += 1
        return result(model, rewrites)


def _partition(source: ir.Value, graph: ir.Graph) -> list[tuple[ir.Node, Part]]:
    """The slices of a value in order, or none where they leave out or repeat a column."""
    readers = (use.node for use in source.uses() if use.idx == 0)
    slices = [node for node in readers if node.op_type == "Slice" and node.graph is graph]
    found = [(node, part_of(node.outputs[0])) for node in slices]
    parts = sorted(
        ((node, part) for node, part in found if part is not None), key=lambda item: item[1].start
    )
    ends = [part.stop for _, part in parts]
    starts = [part.start for _, part in parts]
    width = None if source.shape is None else source.shape[-1]
    whole = starts == [0, *ends[:-1]] and ends[-1:] == [width]
    return parts if whole and len(parts) > 1 else []


def _split(
    graph: ir.Graph, first: ir.Node, source: ir.Value, parts: list[tuple[ir.Node, Part]]
) -> None:
    widths = initializer(
        graph, "slice_widths", np.array([part.width for _, part in parts], np.int64)
    )
    tape = ir.tape.Tape()
    pieces = tape.op_multi_out("Split", [source, widths], {"axis": -1}, num_outputs=len(parts))
    insert_before(first, tape.nodes)
    for (node, _), piece in zip(parts, pieces, strict=True):
        replace_value(node.outputs[0], piece)
        remove_dead(node)
