"""Feeds that exercise a graph: padding, a batch of one, a sequence of one, odd sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..graph.model import Graph
from ..graph.tensors import Array, TensorSpec

SHAPES = ((3, 7), (1, 1), (1, 9), (2, 16))
"""[batch, sequence] of the samples: the first has padding that differs by row."""


def samples(graph: Graph, seed: int = 0) -> Iterator[dict[str, Array]]:
    """Feeds for a graph of token ids; other inputs get values of their dtype.

    Integer inputs that index a table stay inside it; inputs named like a mask get right padding of
    different lengths, never a fully masked row (spellings of attention differ there, see
    docs/semantics.md).
    """
    rng = np.random.default_rng(seed)
    limits = _table_sizes(graph.model)
    for batch, sequence in SHAPES:
        lengths: NDArray[np.int64] = rng.integers(1, sequence + 1, batch)
        lengths[0] = sequence
        yield {
            spec.name: _feed(spec, batch, sequence, lengths, limits.get(spec.name, 2), rng)
            for spec in graph.inputs
        }


def _table_sizes(model: ir.Model) -> dict[str, int]:
    """Input name -> rows of the smallest constant table it indexes."""
    sizes: dict[str, int] = {}
    for node in model.graph:
        if node.op_type != "Gather" or len(node.inputs) < 2:
            continue
        table, indices = node.inputs[0], node.inputs[1]
        tensor = None if table is None else ir.convenience.get_const_tensor(table)
        if tensor is None or indices is None or not indices.is_graph_input() or not indices.name:
            continue
        rows = int(tensor.shape.numpy()[0])
        sizes[indices.name] = min(rows, sizes.get(indices.name, rows))
    return sizes


def _feed(
    spec: TensorSpec,
    batch: int,
    sequence: int,
    lengths: NDArray[np.int64],
    limit: int,
    rng: np.random.Generator,
) -> Array:
    named = iter((batch, sequence))
    seen: dict[str, int] = {}
    shape = [
        dim if isinstance(dim, int) else seen.setdefault(dim, _size(dim, batch, sequence, named))
        for dim in spec.dims
    ]
    if "mask" in spec.name and len(shape) == 2:
        real = np.less(np.arange(shape[1])[None, :], lengths[:, None])
        return np.asarray(real.astype(spec.dtype))
    if np.dtype(spec.dtype).kind == "f":
        return rng.standard_normal(shape).astype(spec.dtype)
    return rng.integers(0, limit, shape).astype(spec.dtype)


def _size(dim: str, batch: int, sequence: int, others: Iterator[int]) -> int:
    if "batch" in dim:
        return batch
    return sequence if "seq" in dim else next(others, sequence)
