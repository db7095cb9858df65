"""Ask the tokens for sizes that a cached decoder reads off its cache, its padding or a layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..constants import initializer, insert_before, int_attribute, replace_value
from .cache_samples import DecoderInputs


def ask_tokens_for_sizes(graph: ir.Graph, inputs: DecoderInputs) -> None:
    """Let every Shape of [batch, sequence, ...] read the tokens.

    Padding goes with the masks, a static cache tells nothing of the past, and shapes of layers are
    known only when the layers have run.

    Args:
        graph: the decoder.
        inputs: what its inputs are.
    """
    tokens = inputs.tokens
    for node in tuple(graph):
        asked = node.inputs[0] if node.op_type == "Shape" else None
        if asked is None or asked is tokens or asked.shape is None:
            continue
        start = int_attribute(node, "start", 0)
        end = int_attribute(node, "end", len(asked.shape))
        if (start, end) == (0, 1) and asked in (*inputs.padding, *inputs.caches):
            node.replace_input_with(0, tokens)
        elif start == 0 and (sizes := _beyond_tokens(asked.shape[:end], tokens)) is not None:
            _replace(graph, node, tokens, sizes)


def _beyond_tokens(dims: Sequence[int | ir.SymbolicDim], tokens: ir.Value) -> list[int] | None:
    """Static sizes after [batch, sequence], or None for another shape."""
    assert tokens.shape is not None
    named = tuple(tokens.shape[:2])
    if tuple(dims[:2]) != named or any(isinstance(dim, int) or not dim.value for dim in named):
        return None
    rest = [dim for dim in dims[2:] if isinstance(dim, int)]
    return rest if len(rest) == len(dims) - 2 else None


def _replace(graph: ir.Graph, node: ir.Node, tokens: ir.Value, sizes: list[int]) -> None:
    tape = ir.tape.Tape()
    shape = tape.op("Shape", [tokens])
    if sizes:
        rest = initializer(graph, "static_sizes", np.array(sizes, np.int64))
        shape.type = ir.TensorType(ir.DataType.INT64)
        shape = tape.op("Concat", [shape, rest], {"axis": 0})
    insert_before(node, tape.nodes)
    replace_value(node.outputs[0], shape)
