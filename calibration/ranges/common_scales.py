"""Give activations of one kind one scale, where the choice is free.

A smoothed tensor ``x / s`` may be divided by any further number, which its weights undo. With the
same step in every layer, TensorRT finds the kernels of all layers equal and keeps one of them: its
fused kernels have scales and other single numbers written into their source, 130 kB each. MiniLM's
plan falls from 41.0 to 39.6 MB.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ...passes.qdq.policy import QuantPlan
from ...passes.qdq.sites import find_site
from ..table import TensorRange

_MOST = 4.0
"""A tensor further than this from the others keeps its own scale: the scales of its weights move by
the same factor, and float16 holds small ones with fewer digits."""


def with_common_scales(
    model: ir.Model, plan: QuantPlan, ranges: Mapping[str, TensorRange]
) -> dict[str, TensorRange]:
    """Let smoothed tensors behind the same operator have the same range.

    What a normalisation writes stays as it is: its gain differs in every layer anyway.

    Args:
        model: the float graph.
        plan: its planned linears.
        ranges: of their activations.
    """
    values = ir.convenience.create_value_mapping(model.graph)
    nodes = {node.outputs[0].name: node for node in model.graph}
    readers: dict[str, list[ir.Node]] = {}
    for linear in plan.linears:
        readers.setdefault(linear.activation, []).append(nodes[linear.output])
    kinds: dict[str, list[str]] = {}
    for name, found in ranges.items():
        kind = _kind(values[name], readers[name])
        if kind is not None and found.smoothing is not None and found.amax > 0:
            kinds.setdefault(kind, []).append(name)
    shared = dict(ranges)
    for names in kinds.values():
        common = float(np.exp(np.mean([np.log(ranges[name].amax) for name in names])))
        shared |= {name: _with_amax(ranges[name], common) for name in names}
    return shared


def _kind(x: ir.Value, readers: Collection[ir.Node]) -> str | None:
    """What writes the tensor and how it is smoothed; None where nothing is gained."""
    maker, site = x.producer(), find_site(x, readers)
    if maker is None or site.norm is not None:
        return None
    return f"{site.name} {maker.op_type}"


def _with_amax(found: TensorRange, amax: float) -> TensorRange:
    assert found.smoothing is not None
    if not 1 / _MOST <= amax / found.amax <= _MOST:
        return found
    return replace(found, amax=amax, smoothing=found.smoothing.with_amax(amax))
