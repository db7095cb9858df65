"""Graph: an onnx_ir model and how it came to be. Protobuf stays inside this folder."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..errors import GraphError
from .foreign import read_model
from .history import StageRecord
from .tensors import Dim, TensorSpec

CANONICAL_OPSET = 23
"""Opset of the canonical dialect: the first with Attention and RotaryEmbedding."""

_EXTERNAL_BYTES = 1024
"""Initializers at least this large go to the file beside the graph."""


@dataclass(frozen=True)
class Graph:
    """An ONNX model with its history. A stage never mutates the Graph it is given.

    Attributes:
        model: the onnx_ir model; treat it as frozen and `clone` it before changing anything.
        history: one record for each stage the graph went through.
    """

    model: ir.Model
    history: tuple[StageRecord, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        """Read an ONNX file; external weights are memory-mapped, not read.

        Raises:
            GraphError: when the file is missing, truncated, not ONNX, not a sound model, or points
                at weights that are missing, too short, or outside its folder.
        """
        model = read_model(Path(path))
        _read_small(model)
        return cls(model)

    def save(self, path: str | Path, weights: str | None = None) -> tuple[Path, ...]:
        """Write ``path`` and, when there are large weights, a file of them beside it.

        Args:
            path: the ``.onnx`` file; its folder must exist. Weights are streamed, never copied.
            weights: name of the file of weights, ``<stem>.weights`` by default.

        Returns:
            The files written.
        """
        path = Path(path)
        data = path.with_name(weights or f"{path.stem}.weights")
        # A shallow clone, because onnx_ir re-points the tensors of the model it saves.
        model = self.model.clone()
        for value in model.graph.initializers.values():
            if isinstance(value.const_value, ir.StringTensor):
                value.const_value = _InlineStrings.of(value.const_value)
        ir.save(model, path, external_data=data.name, size_threshold_bytes=_EXTERNAL_BYTES)
        if data.exists() and not data.stat().st_size:
            data.unlink()  # onnx_ir opens the file before it knows that nothing is large
        return (path, data) if data.exists() else (path,)

    def clone(self) -> Graph:
        """A copy whose nodes may be changed; the tensors are shared."""
        return Graph(self.model.clone(), self.history)

    def with_record(self, record: StageRecord) -> Graph:
        """The same graph with one more history entry."""
        return replace(self, history=(*self.history, record))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs in graph order; an initializer that old exporters list here too is none."""
        inputs = (value for value in self.model.graph.inputs if not value.is_initializer())
        return tuple(map(tensor_spec, inputs))

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs in graph order."""
        return tuple(map(tensor_spec, self.model.graph.outputs))

    @property
    def opset(self) -> int:
        """Version of the standard ONNX opset, 0 when the graph imports none."""
        return self.model.opset_imports.get("", 0)

    @property
    def op_counts(self) -> dict[str, int]:
        """Number of nodes an operator, most frequent first; foreign domains are spelled out."""
        counts = Counter(
            f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            for node in self.model.graph
        )
        return dict(counts.most_common())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all initializers."""
        return sum(
            value.const_value.nbytes
            for value in self.model.graph.initializers.values()
            if value.const_value is not None
        )

    def digest(self) -> str:
        """sha256 over structure, opsets and weights; equal graphs have equal digests.

        What shape inference adds to inner values does not count.
        """
        sha = hashlib.sha256()
        graph = self.model.graph
        for value in (*graph.inputs, *graph.outputs):
            sha.update(f"{value.name} {value.type} {value.shape}\n".encode())
        sha.update(repr(sorted(self.model.opset_imports.items())).encode())
        for part in (*graph, *self.model.functions.values()):
            sha.update(ir.to_proto(part).SerializeToString(deterministic=True))
        for name, value in sorted(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None:
                sha.update(f"{name} without a value\n".encode())
                continue
            sha.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            if tensor.dtype == ir.DataType.STRING:
                sha.update(repr(tensor.numpy().tolist()).encode())
                continue
            sha.update(np.ascontiguousarray(tensor.numpy()).view(np.uint8).data)
        return sha.hexdigest()


class _InlineStrings(ir.StringTensor):
    """Strings that onnx_ir leaves in the graph: ONNX has no external form of them."""

    @classmethod
    def of(cls, tensor: ir.StringTensor) -> _InlineStrings:
        """The same strings."""
        return cls(tensor.string_data(), shape=ir.Shape(tensor.shape), name=tensor.name)

    @property
    def nbytes(self) -> int:
        """None of them go to the file of weights."""
        return 0


def _read_small(model: ir.Model) -> None:
    """Read what is not worth a mapping."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= _EXTERNAL_BYTES:
            # A copy, because onnx_ir unmaps the file when it saves the model.
            value.const_value = ir.Tensor(
                tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name
            )


def tensor_spec(value: ir.Value) -> TensorSpec:
    """Name, numpy dtype and dims of a graph value.

    Raises:
        GraphError: when the value has no dtype or no rank.
    """
    if value.dtype is None or value.shape is None:
        raise GraphError(
            f"{value.name}: expected a typed tensor of known rank, got {value}; "
            "run shape inference on the model first"
        )
    dims: list[Dim] = []
    for axis, dim in enumerate(value.shape):
        dims.append(dim if isinstance(dim, int) else (dim.value or f"{value.name}_{axis}"))
    return TensorSpec(value.name or "", value.dtype.numpy().name, tuple(dims))


def reject_nan(model: ir.Model, origin: str) -> None:
    """Refuse weights that hold NaN or infinity; the attention-mask constants are small and exempt.

    Raises:
        GraphError: naming the first such initializer and how many values it holds.
    """
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.size < 2 or not tensor.dtype.is_floating_point():
            continue
        array = tensor.numpy()
        # The sum is one pass without a temporary; only a suspicious tensor is looked at closely.
        with np.errstate(all="ignore"):
            if np.isfinite(array.sum(dtype=np.float64)):
                continue
        bad = int(np.count_nonzero(~np.isfinite(array)))
        if bad:
            raise GraphError(
                f"{origin}: weight {name!r} {list(array.shape)} holds {bad} NaN or infinite values "
                f"of {array.size}; expected finite weights, repair or download the model again"
            )
