"""Every attention of a packed graph: a text sees itself and nobody else.

    Attention(q, k, v, <canonical mask> [+ bias])
      ->  Attention(q, k, v, Where(segment[i] == segment[j] [and near], 0, fill) [+ bias])

Padding is a segment of its own, so no query is without a key and no row of scores is undefined;
nobody reads what it computes. Windows and causality go by the difference of positions. A bias that
depends on the distance of query and key stays: within a text, that distance is the one in the row.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from ...errors import PassError
from ..masks.fill import mask_fill
from ..masks.meaning import Mask
from ..masks.read import attention_mask
from .layout import PackedInputs


@dataclass
class AttentionMasks:
    """Writes the masks, one for all attentions that look equally far.

    Attributes:
        inputs: of the packed graph.
    """

    inputs: PackedInputs
    biases: list[ir.Value] = field(default_factory=list)
    _sums: dict[tuple[ir.Value, ir.Value], ir.Value] = field(default_factory=dict)
    _known: dict[tuple[int | None, int | None, ir.DataType], ir.Value] = field(default_factory=dict)

    def write(self, node: ir.Node, meaning: Mask, bias: ir.Value | None) -> None:
        """Replace the mask of an Attention."""
        query = node.inputs[0]
        assert query is not None
        dtype = query.dtype or ir.DataType.FLOAT
        key = (meaning.back, meaning.ahead, dtype)
        if key not in self._known:
            self._known[key] = self._mask(meaning, dtype)
        mask = self._known[key]
        if bias is not None:
            self.biases.append(bias)
            mask = self._sum(bias, mask)
        if len(node.inputs) < 4:
            node.resize_inputs(4)
        node.replace_input_with(3, mask)
        if "is_causal" in node.attributes:
            node.attributes["is_causal"] = ir.AttrInt64("is_causal", 0)

    def _sum(self, bias: ir.Value, mask: ir.Value) -> ir.Value:
        if (bias, mask) not in self._sums:
            self._sums[bias, mask] = self.inputs.tape.op("Add", [bias, mask])
        return self._sums[bias, mask]

    def _mask(self, meaning: Mask, dtype: ir.DataType) -> ir.Value:
        inputs, op = self.inputs, self.inputs.tape.op
        keep = op("Equal", [inputs.column(inputs.segments), inputs.row(inputs.segments)])
        if meaning.has_band:
            ahead = op("Sub", [inputs.row(inputs.positions), inputs.column(inputs.positions)])
            limits = (("GreaterOrEqual", meaning.back, -1), ("LessOrEqual", meaning.ahead, 1))
            for compare, limit, sign in limits:
                if limit is not None:
                    near = op(compare, [ahead, inputs.constant("window", sign * limit)])
                    keep = op("And", [keep, near])
        zero = inputs.constant("keep", 0, dtype.numpy().type)
        fill = inputs.constant("drop", mask_fill(dtype), dtype.numpy().type)
        return op("Where", [keep, zero, fill])


Found = tuple[ir.Node, Mask, ir.Value | None]
"""An Attention, which keys it keeps, and what is added to its scores besides."""


def read_masks(graph: ir.Graph) -> list[Found]:
    """Every Attention with what its mask says; before the inputs of the graph are changed.

    Raises:
        PassError: on an attention whose mask is unknown, or that keeps a cache, and when there
            is none.
    """
    found = [
        (node, *_read(node)) for node in graph if node.op_type == "Attention" and not node.domain
    ]
    if not found:
        raise PassError("the graph has no fused attention; nothing would keep texts of a row apart")
    return found


def write_masks(found: list[Found], inputs: PackedInputs) -> list[ir.Value]:
    """Give every Attention the mask of its row; returns the biases that stay."""
    masks = AttentionMasks(inputs)
    for node, meaning, bias in found:
        masks.write(node, meaning, bias)
    return masks.biases


def _read(node: ir.Node) -> tuple[Mask, ir.Value | None]:
    if any(value is not None for value in node.inputs[4:]) or len(node.outputs) > 1:
        raise PassError(f"node {node.name}: attention with a key/value cache cannot be packed")
    read = attention_mask(node)
    if read is None:
        raise PassError(
            f"node {node.name}: the mask of this attention is none of padding, windows, causality "
            "and a bias; fuselage explain says why it was left as it is"
        )
    return read.meaning, read.bias
