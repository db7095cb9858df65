"""Give the caches of RotaryEmbedding the batch of what it rotates.

    RotaryEmbedding(x [batch, ...], cos [1, s, d/2], sin [1, s, d/2])
      ->  RotaryEmbedding(x, Expand(cos, [batch, 1, 1]), Expand(sin, [batch, 1, 1]))

Positions are the same for every row, and exporters leave it at one. The operator is specified with
the batch, and ONNX Runtime 1.31 fails for another. Each cache is expanded once and shared.

Source: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..constants import initializer, insert_before, producer

_Key = tuple[ir.Value, object]


@dataclass(frozen=True)
class ExpandRotaryCaches(Pass):
    """Expand caches of batch 1; those with the batch of x, and expanded ones, stay."""

    name = "expand-rotary-caches"
    min_opset = 23

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = expand_caches(model)
        return result(model, rewrites, refusals)


def expand_caches(model: ir.Model) -> tuple[int, tuple[Refusal, ...]]:
    """Expand what wants it in the main graph; how many operators were changed, and what was not."""
    rewrites, refusals = 0, []
    expanded: dict[_Key, ir.Value] = {}
    for node in tuple(model.graph):
        if node.op_type != "RotaryEmbedding" or node.domain or len(node.inputs) != 3:
            continue
        try:
            rewrites += _expand_both(node, expanded)
        except _Unknown as unknown:
            reason = Refusal(ExpandRotaryCaches.name, node.name or "?", str(unknown))
            refusals.append(reason)
    return rewrites, tuple(refusals)


class _Unknown(Exception):  # noqa: N818  (control flow inside this file, never leaves it)
    """Which shape is missing."""


def _expand_both(node: ir.Node, expanded: dict[_Key, ir.Value]) -> int:
    x, caches = node.inputs[0], node.inputs[1:]
    if x is None or x.shape is None:
        raise _Unknown("the shape of x is unknown")
    batch = x.shape[0]
    wanting = [cache for cache in caches if cache is not None and _wants(cache, batch)]
    for cache in wanting:
        # A batch without a name may be any: its caches are shared with nobody.
        name = x if batch == ir.SymbolicDim(None) else batch
        if (cache, name) not in expanded:
            expanded[cache, name] = _expand(node, x, cache)
        node.replace_input_with(node.inputs.index(cache), expanded[cache, name])
    return 1 if wanting else 0


def _wants(cache: ir.Value, batch: int | ir.SymbolicDim) -> bool:
    if producer(cache, "Expand") is not None:
        return False
    if cache.shape is None or len(cache.shape) != 3:
        raise _Unknown(f"cache {cache.name!r} has shape {cache.shape}, expected 3 dimensions")
    known = batch != ir.SymbolicDim(None)
    return not (known and cache.shape[0] == batch)


def _expand(node: ir.Node, x: ir.Value, cache: ir.Value) -> ir.Value:
    assert node.graph is not None
    assert x.shape is not None
    assert cache.shape is not None
    ones = initializer(node.graph, "rotary_ones", np.ones(2, np.int64))
    tape = ir.tape.Tape()
    batch = tape.op("Shape", [x], {"start": 0, "end": 1})
    sizes = tape.op("Concat", [batch, ones], {"axis": 0})
    full = tape.op("Expand", [cache, sizes])
    full.type = cache.type
    full.shape = ir.Shape([x.shape[0], *cache.shape[1:]])
    insert_before(node, tape.nodes)
    return full
