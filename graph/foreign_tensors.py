"""The tensors of a foreign model: their bytes, their files, and the sparse ones made dense."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
import onnx_ir as ir
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from ..errors import GraphError

_DENSE_BYTES = 1 << 28
"""A sparse tensor may become this large: a few bytes can ask for any size."""

_LONGEST_NAME = 120

_DATA_FIELDS = (
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "double_data",
    "uint64_data",
)


def short(name: str) -> str:
    """A name as messages have it: files can hold names of any length."""
    return repr(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}...")


def check_tensors(proto: ModelProto, path: Path) -> None:
    """Every tensor has a known dtype, and its bytes, here or in a file beside the model.

    External tensors other than the main graph's weights are read: builders take those inline.

    Raises:
        GraphError: naming the tensor, what its shape asks for, and what there is.
    """
    for tensor in proto.graph.initializer:
        _check_tensor(tensor, f"initializer {short(tensor.name)}", path)
    for tensor, place in _inner_tensors(proto):
        held = _check_tensor(tensor, place, path)
        if held is not None:
            _read_inline(tensor, *held)


def _check_tensor(tensor: TensorProto, place: str, path: Path) -> tuple[Path, int, int] | None:
    """File, offset and bytes of an external tensor, None of one that is here."""
    needed = _needed_bytes(tensor, place, path)
    if tensor.data_location == TensorProto.EXTERNAL:
        if tensor.data_type == TensorProto.STRING:
            raise GraphError(
                f"{path}: {place} holds strings in a file of weights; ONNX keeps strings in the "
                "graph, export the model again"
            )
        return (*_external_file(tensor, needed, place, path), needed)
    _check_held(tensor, needed, place, path)
    return None


def _read_inline(tensor: TensorProto, file: Path, offset: int, needed: int) -> None:
    with file.open("rb") as stream:
        stream.seek(offset)
        tensor.raw_data = stream.read(needed)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT


def densify(graph: GraphProto, path: Path) -> list[TensorProto]:
    """Take the sparse initializers out of a graph; what they stand for, as dense tensors.

    Raises:
        GraphError: when one is malformed, or too large to be written out.
    """
    dense = []
    for sparse in graph.sparse_initializer:
        name = sparse.values.name
        try:
            array = _dense_array(sparse)
        except (ValueError, TypeError, IndexError) as error:
            raise GraphError(
                f"{path}: sparse initializer {short(name)} {list(sparse.dims)} cannot be made "
                f"dense ({error}); export the model with dense weights"
            ) from error
        dense.append(onnx.numpy_helper.from_array(array, name))
    del graph.sparse_initializer[:]
    return dense


def _dense_array(sparse: SparseTensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """Source: SparseTensorProto in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto."""
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    size = math.prod(sparse.dims)
    if min(sparse.dims, default=0) < 0 or size * values.itemsize > _DENSE_BYTES:
        raise ValueError(f"expected at most {_DENSE_BYTES:,} bytes, got {size} values")
    if indices.ndim == 2:
        indices = np.ravel_multi_index(tuple(indices.T), tuple(sparse.dims))
    if indices.size != values.size or np.any((indices < 0) | (indices >= size)):
        raise IndexError(f"{values.size} values lie at {indices.size} places of {size}")
    array = np.zeros(size, values.dtype)
    array[indices] = values
    return array.reshape(tuple(sparse.dims))


def _inner_tensors(proto: ModelProto) -> Iterator[tuple[TensorProto, str]]:
    yield from _node_tensors(proto.graph.node)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: GraphProto) -> Iterator[tuple[TensorProto, str]]:
    for tensor in graph.initializer:
        yield tensor, f"initializer {short(tensor.name)}"
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[tuple[TensorProto, str]]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.type == AttributeProto.TENSOR:
                yield attribute.t, f"attribute {short(attribute.name)} of {node.op_type[:80]}"
            for tensor in attribute.tensors:
                yield tensor, f"attribute {short(attribute.name)} of {node.op_type[:80]}"
            if attribute.HasField("g"):
                yield from _graph_tensors(attribute.g)
            for graph in attribute.graphs:
                yield from _graph_tensors(graph)


def _needed_bytes(tensor: TensorProto, place: str, path: Path) -> int:
    """Bytes of the tensor in the ONNX layout; of a string tensor the number of strings."""
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED or min(tensor.dims, default=0) < 0:
        raise GraphError(
            f"{path}: {place} has data type {tensor.data_type} and shape {list(tensor.dims)}; "
            "expected a type of ONNX and no negative size, export the model again"
        )
    size: int = math.prod(tensor.dims)
    return size if dtype == ir.DataType.STRING else math.ceil(size * dtype.bitwidth / 8)


def _check_held(tensor: TensorProto, needed: int, place: str, path: Path) -> None:
    entries = sum(len(getattr(tensor, field)) for field in _DATA_FIELDS)
    held = entries
    if tensor.HasField("raw_data"):
        held = len(tensor.raw_data) + entries  # both is one too many
    else:
        needed = _needed_entries(tensor, needed)
    if held != needed:
        raise GraphError(
            f"{path}: {place} {list(tensor.dims)} needs {needed:,} bytes or values, and holds "
            f"{held:,}; the model is damaged, export or download it again"
        )


def _needed_entries(tensor: TensorProto, needed: int) -> int:
    """Entries of a typed field: complex numbers take two, types below a byte share one."""
    dtype = ir.DataType(tensor.data_type)
    if dtype == ir.DataType.STRING or dtype.bitwidth < 8:
        return needed
    size: int = math.prod(tensor.dims)
    return 2 * size if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128) else size


def _external_file(tensor: TensorProto, needed: int, place: str, path: Path) -> tuple[Path, int]:
    """The file that holds a tensor, and where in it; both checked."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    inside = PurePosixPath(location)
    if inside.is_absolute() or ".." in inside.parts:
        raise GraphError(
            f"{path}: {place} lies in {short(location)}, outside the folder of the model; "
            "expected a file beside it"
        )
    file = path.parent / location
    homes = (path.parent.resolve(), path.resolve().parent)  # a cache links both files elsewhere
    if not any(file.resolve().is_relative_to(home) for home in homes):
        raise GraphError(
            f"{path}: {place} lies in {short(file.name)}, a link out of the folder of the model; "
            "copy the file itself beside the model"
        )
    if file.is_file() and file.stat().st_nlink > 1:
        raise GraphError(
            f"{path}: {place} lies in {short(file.name)}, which has other hard links; onnx_ir "
            "refuses those, copy the file"
        )
    offset = _number(entries.get("offset", "0"), place, path)
    length = _number(entries.get("length", str(needed)), place, path)
    held = file.stat().st_size if file.is_file() else -1
    if held < offset + needed or length < needed:
        found = f"holds {min(held, offset + length):,}" if held >= 0 else "is missing"
        raise GraphError(
            f"{path}: {place} needs {offset + needed:,} bytes of {file.name}, which "
            f"{found}; the model is truncated, copy both files again"
        )
    return file, offset


def _number(text: str, place: str, path: Path) -> int:
    if not text.isdecimal():
        raise GraphError(
            f"{path}: {place} lies at {short(text)} of its file; expected a number of bytes"
        )
    return int(text)
