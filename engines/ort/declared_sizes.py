"""Refuse an ONNX file whose weights are declared larger than the files that hold them.

ONNX Runtime reserves memory for what a tensor declares before it looks for the content, and writes
to stderr when that is more than 64 bits can count. The file is read here as the protobuf messages
that it is made of, because machines that only run engines have no package ``onnx``.

Sources: https://protobuf.dev/programming-guides/encoding/ and
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import BundleError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}

_GRAPH_OF_MODEL, _NODES_OF_GRAPH, _WEIGHTS_OF_GRAPH, _ATTRIBUTES_OF_NODE = 7, 1, 5, 5
_TENSOR_OF_ATTRIBUTE, _GRAPH_OF_ATTRIBUTE, _GRAPHS_OF_ATTRIBUTE = 5, 6, 11
_DIMS, _NAME, _EXTERNAL_DATA = 1, 8, 13

_ELEMENTS_A_BYTE = 8
"""More than any data type packs."""

_DEEPEST = 100
"""Graphs within graphs; protobuf itself takes no more."""


class _NotProtobufError(ValueError):
    """The bytes are no protobuf; ONNX Runtime says so better."""


@dataclass
class _Tensor:
    dims: list[int] = field(default_factory=list)
    name: str = ""
    location: str = ""


def check_declared_sizes(path: Path) -> None:
    """Hold every weight of an ONNX file to the bytes there are.

    A file that cannot be read, or is no protobuf, passes: opening it fails with the reason.

    Raises:
        BundleError: naming the weight, what it declares, and the bytes of the file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for tensor in _tensors(data):
                _check(path, tensor, len(data))
    except (OSError, ValueError):
        return


def _check(path: Path, tensor: _Tensor, inline: int) -> None:
    elements = math.prod(tensor.dims)
    if 0 <= elements <= _ELEMENTS_A_BYTE * inline and not tensor.location:
        return
    held = inline
    if tensor.location:
        try:
            held = (path.parent / tensor.location).stat().st_size
        except OSError:
            return
    if not 0 <= elements <= _ELEMENTS_A_BYTE * held:
        raise BundleError(
            f"{path}: the weight {tensor.name!r:.80} is declared with {tensor.dims!s:.80} "
            f"elements, but {tensor.location or path.name:.80} has {held:,} bytes; the file is "
            "damaged, copy the bundle again or rebuild it"
        )


def _tensors(data: mmap.mmap) -> Iterator[_Tensor]:
    for number, _, begin, end in _fields(data, 0, len(data)):
        if number == _GRAPH_OF_MODEL:
            yield from _tensors_of_graph(data, begin, end, _DEEPEST)


def _tensors_of_graph(data: mmap.mmap, begin: int, end: int, depth: int) -> Iterator[_Tensor]:
    if not depth:
        raise _NotProtobufError
    for number, _, start, stop in _fields(data, begin, end):
        if number == _WEIGHTS_OF_GRAPH:
            yield _tensor(data, start, stop)
        elif number == _NODES_OF_GRAPH:
            for attribute, _, first, last in _fields(data, start, stop):
                if attribute == _ATTRIBUTES_OF_NODE:
                    yield from _tensors_of_attribute(data, first, last, depth)


def _tensors_of_attribute(data: mmap.mmap, begin: int, end: int, depth: int) -> Iterator[_Tensor]:
    for number, kind, start, stop in _fields(data, begin, end):
        if kind != _BYTES:
            continue
        if number == _TENSOR_OF_ATTRIBUTE:
            yield _tensor(data, start, stop)
        elif number in (_GRAPH_OF_ATTRIBUTE, _GRAPHS_OF_ATTRIBUTE):
            yield from _tensors_of_graph(data, start, stop, depth - 1)


def _tensor(data: mmap.mmap, begin: int, end: int) -> _Tensor:
    tensor = _Tensor()
    for number, kind, start, stop in _fields(data, begin, end):
        if number == _DIMS:
            while start < stop:  # one, or all of them in one field
                size, start = _varint(data, start, stop)
                tensor.dims.append(size if size < 1 << 63 else size - (1 << 64))
        elif number == _NAME and kind == _BYTES:
            tensor.name = data[start:stop].decode(errors="replace")
        elif number == _EXTERNAL_DATA and kind == _BYTES:
            key, value = _entry(data, start, stop)
            if key == "location":
                tensor.location = value
    return tensor


def _entry(data: mmap.mmap, begin: int, end: int) -> tuple[str, str]:
    found = {
        number: data[start:stop].decode(errors="replace")
        for number, _, start, stop in _fields(data, begin, end)
    }
    return found.get(1, ""), found.get(2, "")


def _fields(data: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, kind, begin and end of the content of each field of a message."""
    while begin < end:
        tag, begin = _varint(data, begin, end)
        kind = tag & 7
        if kind == _BYTES:
            size, begin = _varint(data, begin, end)
            stop = begin + size
        elif kind == _VARINT:
            stop = _varint(data, begin, end)[1]
        elif kind in _FIXED_SIZES:
            stop = begin + _FIXED_SIZES[kind]
        else:
            raise _NotProtobufError
        if stop > end:
            raise _NotProtobufError
        yield tag >> 3, kind, begin, stop
        begin = stop


def _varint(data: mmap.mmap, begin: int, end: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = shift = 0
    while begin < end and shift < 70:
        byte = data[begin]
        begin += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, begin
        shift += 7
    raise _NotProtobufError
