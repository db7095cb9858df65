"""Read an ONNX file from anywhere: nothing in it is believed before it is checked.

onnx_ir and the C++ behind onnx and ONNX Runtime take much for granted, drop what they do not know,
or crash. What comes out of here is sound: names are defined once and before they are read, tensors
hold the bytes their shape asks for, weights lie beside the model, and the ONNX checker agrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx import GraphProto, ModelProto, TensorProto

from ..errors import GraphError
from .foreign_names import check_names, inner_graphs, node_lists
from .foreign_tensors import check_tensors, densify, short

_STANDARD = "ai.onnx"
"""The long name of the standard domain; the short one is the empty string."""

_FREE_WEIGHTS_IR = 4
"""First IR version in which an initializer need not be listed as an input."""

_STUB_BYTES = 1024
"""Larger weights are left out of what the checker is given: it would copy them twice."""

_STRING, _MESSAGE = 9, 11
"""Types of fields: https://github.com/protocolbuffers/protobuf, descriptor.proto."""

_SIGNATURES = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with git lfs pull",
    b"\x89HDF": "an HDF5 file",
    b"\x80\x02": "a pickle",
    b"{": "JSON",
    b"<": "HTML or XML",
}


def read_model(path: Path) -> ir.Model:
    """The model in a file, checked; external weights are mapped, not read.

    Raises:
        GraphError: when the file is missing, truncated, not ONNX, or not a sound model.
    """
    proto = _parse(path)
    try:
        check_model(proto, path)
        model: ir.Model = ir.from_proto(proto)
    except GraphError:
        raise
    except Exception as error:  # protobuf, onnx and onnx_ir raise many unrelated types here
        raise GraphError(f"{path}: not a readable ONNX model ({_innermost(error)})") from error
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = _placed(value.const_value, path)
    return model


def _placed(tensor: ir.ExternalTensor, path: Path) -> ir.ExternalTensor:
    """The tensor with the folder its file lies in, links followed: onnx_ir refuses them."""
    file = (path.parent / tensor.location).resolve()
    return ir.ExternalTensor(
        file.name,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
        base_dir=file.parent,
    )


def _parse(path: Path) -> ModelProto:
    if not path.is_file():
        raise GraphError(f"{path}: no such file; expected an ONNX model")
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises its own types, and others for other formats
        raise GraphError(
            f"{path}: not a readable ONNX model ({_foreign_kind(path) or _innermost(error)})"
        ) from error
    graph = proto.graph
    if not len(graph.node) or not len(graph.output):
        kind = _foreign_kind(path)
        hint = f"it is {kind}" if kind else "is it an ONNX file at all?"
        raise GraphError(
            f"{path}: expected an ONNX graph with nodes and outputs, got {len(graph.node)} nodes "
            f"and {len(graph.output)} outputs; {hint}"
        )
    return proto


def check_model(proto: ModelProto, path: Path) -> None:
    """Refuse what is unsound, and bring what is sound but rare into the common form.

    In place: the standard domain gets its short name, sparse weights become dense ones, the tensors
    of subgraphs, functions and attributes come inline, sizes below 0 become unknown, IR versions
    below 4 become 4.

    Raises:
        GraphError: naming the first defect, its place, and what to do.
    """
    _check_text(proto, path)
    _check_opsets(proto, path)
    _forget_negative_sizes(proto.graph)
    _agree_on_types(proto.graph)
    for nodes in node_lists(proto):
        for node in nodes:
            node.domain = "" if node.domain == _STANDARD else node.domain
    for sparse in densify(proto.graph, path):
        proto.graph.initializer.append(sparse)
    check_names(proto, path)
    check_tensors(proto, path)
    proto.ir_version = max(proto.ir_version, _FREE_WEIGHTS_IR)
    try:
        onnx.checker.check_model(_without_weights(proto))
    except Exception as error:  # the checker raises its own and protobuf's types
        complaint = " ".join(str(error).split())[:300]
        raise GraphError(
            f"{path}: not a valid ONNX model, the ONNX checker says: {complaint}"
        ) from error


def _check_text(message: Any, path: Path) -> None:
    """Every text is UTF-8; onnx reads others as bytes and fails when it writes them."""
    for field, value in message.ListFields():
        if field.type == _STRING:
            texts = (value,) if isinstance(value, str | bytes) else value
            if any(isinstance(text, bytes) for text in texts):
                raise GraphError(
                    f"{path}: a text in the field {field.name!r} is not UTF-8; the model is "
                    "damaged, export or download it again"
                )
        elif field.type == _MESSAGE:
            for inner in value if isinstance(value, Sequence) else (value,):
                if not isinstance(inner, TensorProto):
                    _check_text(inner, path)
                elif isinstance(inner.name, bytes):
                    raise GraphError(f"{path}: the name of a tensor is not UTF-8")


def _check_opsets(proto: ModelProto, path: Path) -> None:
    versions: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = entry.domain = "" if entry.domain == _STANDARD else entry.domain
        if versions.setdefault(domain, entry.version) != entry.version:
            raise GraphError(
                f"{path}: imports opset {versions[domain]} and opset {entry.version} of domain "
                f"{short(domain or _STANDARD)}; expected one version, export the model again"
            )
    if not versions:
        raise GraphError(
            f"{path}: imports no opset, so its operators have no meaning; expected opset_import "
            "entries, export the model again"
        )
    newest = onnx.defs.onnx_opset_version()
    if not 0 < versions.get("", 1) <= newest:
        raise GraphError(
            f"{path}: imports opset {versions['']} of ai.onnx, the installed onnx "
            f"{onnx.__version__} knows 1 to {newest}; upgrade onnx or export with an older opset"
        )


def _forget_negative_sizes(graph: GraphProto) -> None:
    """Some converters write -1 for a size that varies."""
    for info in (*graph.input, *graph.output, *graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.Clear()
    for node in graph.node:
        for inner in inner_graphs(node):
            _forget_negative_sizes(inner)


def _agree_on_types(graph: GraphProto) -> None:
    """An output that is an input has the input's type, whatever else is declared for it.

    onnx_ir keeps one type a value and would give the input the type of the output.
    """
    types = {info.name: info.type for info in graph.input}
    for info in graph.output:
        if info.name in types:
            info.type.CopyFrom(types[info.name])


def _without_weights(proto: ModelProto) -> ModelProto:
    """A copy whose large weights are inputs: all that the checker needs of them is their name."""
    stub = ModelProto(ir_version=proto.ir_version)
    stub.opset_import.extend(proto.opset_import)
    stub.functions.extend(proto.functions)
    graph = stub.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    inputs = {info.name for info in graph.input}
    for tensor in proto.graph.initializer:
        if tensor.data_location == tensor.DEFAULT and tensor.ByteSize() <= _STUB_BYTES:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            kind = graph.input.add(name=tensor.name).type.tensor_type
            kind.elem_type = tensor.data_type
            kind.shape.SetInParent()
    return stub


def _foreign_kind(path: Path) -> str | None:
    """What a file that is not ONNX looks like; None when that cannot be told."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "an empty file"
    return next((kind for sign, kind in _SIGNATURES.items() if start.startswith(sign)), None)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:  # onnx_ir wraps the cause once a nesting
        error = error.__cause__
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
