"""Reads the nodes of an ONNX file without the onnx package, which a production host has not got.

Only the fields of the wire format that a picture needs are read: nodes, their names, operators and
values, and the names of initializers. See onnx.proto of ONNX for the field numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import GraphError

_LARGEST = 64 << 20
"""Bytes; a graph of a bundle keeps its weights beside it and is far smaller."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_TENSOR_DIMS, _TENSOR_NAME = 1, 8
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_DOMAIN = 1, 2, 3, 4, 7


@dataclass(frozen=True, kw_only=True)
class OutlineNode:
    """A node as a picture needs it."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Outline:
    """Nodes in topological order, and the names of what is constant with its dimensions."""

    nodes: tuple[OutlineNode, ...]
    constants: dict[str, tuple[int, ...]]


def read_outline(path: Path) -> Outline | None:
    """The nodes of a graph; None when the file is too large to be worth a picture.

    Raises:
        GraphError: when the file is not what ONNX writes.
    """
    if path.stat().st_size > _LARGEST:
        return None
    data = memoryview(path.read_bytes())
    try:
        graph = next(value for field, value in _fields(data) if field == _MODEL_GRAPH)
        return _graph(graph)
    except (StopIteration, IndexError, ValueError, TypeError) as error:
        raise GraphError(
            f"{path}: expected an ONNX graph, got bytes that are none; build the bundle again"
        ) from error


def _graph(data: memoryview | int) -> Outline:
    nodes, constants = [], {}
    for field, value in _fields(data):
        if field == _GRAPH_NODE:
            nodes.append(_node(value))
        elif field == _GRAPH_INITIALIZER:
            name, dims = _tensor(value)
            constants[name] = dims
    return Outline(tuple(nodes), constants)


def _node(data: memoryview | int) -> OutlineNode:
    inputs, outputs, words = [], [], {_NODE_NAME: "", _NODE_OPERATOR: "", _NODE_DOMAIN: ""}
    for field, value in _fields(data):
        if field == _NODE_INPUT:
            inputs.append(_text(value))
        elif field == _NODE_OUTPUT:
            outputs.append(_text(value))
        elif field in words:
            words[field] = _text(value)
    return OutlineNode(
        name=words[_NODE_NAME],
        operator=words[_NODE_OPERATOR],
        inputs=tuple(inputs),
        outputs=tuple(outputs),
    )


def _tensor(data: memoryview | int) -> tuple[str, tuple[int, ...]]:
    name, dims = "", []
    for field, value in _fields(data):
        if field == _TENSOR_NAME:
            name = _text(value)
        elif field == _TENSOR_DIMS:
            dims += [value] if isinstance(value, int) else list(_packed(value))
    return name, tuple(dims)


def _fields(data: memoryview | int) -> Iterator[tuple[int, memoryview | int]]:
    if isinstance(data, int):
        raise TypeError("a number where a message was expected")
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield field, value
        elif kind == _BYTES:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("truncated")
            yield field, data[at : at + length]
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _packed(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _text(value: memoryview | int) -> str:
    if isinstance(value, int):
        raise TypeError("a number where text was expected")
    return bytes(value).decode("utf-8")
