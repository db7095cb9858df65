"""Tensors of the Open Inference Protocol: JSON lists, or bytes behind the JSON.

Sources: https://github.com/kserve/open-inference-protocol (REST, version 2) and the binary tensor
data extension of Triton, docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...graph.tensors import Array, TensorSpec
from .bodies import check_keys, kind_of
from .faults import RequestError, bad_request

DATATYPES: Mapping[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_MOST_AXES = 8
_LARGEST = 1 << 31


def datatype(spec: TensorSpec) -> str:
    """The protocol's name of a tensor's dtype."""
    return _NAMES.get(spec.dtype, spec.dtype.upper())


def described(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    """Tensors as the metadata of a model names them; -1 for a dynamic axis."""
    return [
        {
            "name": spec.name,
            "datatype": datatype(spec),
            "shape": [dim if isinstance(dim, int) else -1 for dim in spec.dims],
        }
        for spec in specs
    ]


def read_inputs(listed: Any, tail: bytes, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Decode the inputs of a request.

    Args:
        listed: ``inputs`` of the body.
        tail: what stands behind the JSON; every byte of it must belong to an input.
        specs: the inputs of the engine.

    Raises:
        RequestError: 400 naming the tensor and what is wrong with it.
    """
    if not isinstance(listed, list) or not listed:
        raise bad_request(f"inputs: expected a list of tensors, got {kind_of(listed)}")
    known = {spec.name: spec for spec in specs}
    feeds: dict[str, Array] = {}
    for item in listed:
        name = _name(item, known)
        if name in feeds:
            raise bad_request(f"inputs: {name!r} is given twice")
        feeds[name], tail = _read_input(item, tail, known[name])
    if tail:
        raise bad_request(f"{len(tail)} bytes behind the last binary tensor; expected none")
    return feeds


def _name(item: Any, known: Mapping[str, TensorSpec]) -> str:
    if not isinstance(item, dict):
        raise bad_request(f"inputs: expected objects, got {kind_of(item)}")
    name = item.get("name")
    if not isinstance(name, str) or name not in known:
        raise bad_request(f"inputs: expected the names {sorted(known)}, got {name!r:.40}")
    check_keys(item, ("name", "shape", "datatype", "data", "parameters"), f"input {name!r}")
    return name


def _read_input(item: Mapping[str, Any], tail: bytes, spec: TensorSpec) -> tuple[Array, bytes]:
    where, expected = f"input {spec.name!r}", datatype(spec)
    if item.get("datatype") != expected:
        raise bad_request(
            f"{where}: expected the datatype {expected}, got {item.get('datatype')!r:.40}"
        )
    shape = _shape(item.get("shape"), where)
    parameters = item.get("parameters", {})
    if not isinstance(parameters, dict):
        raise bad_request(f"{where}: parameters: expected an object, got {kind_of(parameters)}")
    check_keys(parameters, ("binary_data_size",), f"{where}: parameters")
    if "binary_data_size" not in parameters:
        return _from_json(item.get("data"), shape, spec), tail
    if "data" in item:
        raise bad_request(f"{where}: expected data or binary_data_size, got both")
    size = parameters["binary_data_size"]
    dtype = np.dtype(spec.dtype)
    needed = math.prod(shape) * dtype.itemsize
    if type(size) is not int or size != needed:
        raise bad_request(
            f"{where}: binary_data_size: expected {needed} for {expected}{shape}, got {size!r:.40}"
        )
    if len(tail) < size:
        raise bad_request(f"{where}: expected {size} bytes behind the JSON, got {len(tail)}")
    return _from_bytes(tail[:size], dtype).reshape(shape), tail[size:]


def _shape(value: Any, where: str) -> list[int]:
    is_good = isinstance(value, list) and len(value) <= _MOST_AXES
    if not is_good or not all(type(size) is int and 0 <= size < _LARGEST for size in value):
        raise bad_request(
            f"{where}: shape: expected a list of at most {_MOST_AXES} sizes, got {value!r:.60}"
        )
    return list(value)


def _from_bytes(data: bytes, dtype: np.dtype[Any]) -> Array:
    if dtype == np.bool_:  # other bytes than 0 and 1 are no bool to what reads them
        return np.frombuffer(data, np.uint8).astype(np.bool_)
    # copied: bytes behind JSON stand at any address, and kernels want them aligned
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)


def _from_json(data: Any, shape: list[int], spec: TensorSpec) -> Array:
    where, dtype = f"input {spec.name!r}", np.dtype(spec.dtype)
    if not isinstance(data, list):
        raise bad_request(f"{where}: data: expected a list, got {kind_of(data)}")
    try:
        values = np.array(data)
    except (ValueError, OverflowError):
        values = np.array(None)
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if values.size and values.dtype.kind not in allowed:
        raise bad_request(
            f"{where}: data: expected {datatype(spec)} numbers in a regular list, got another kind"
        )
    if values.size != math.prod(shape):
        raise bad_request(
            f"{where}: data: expected {math.prod(shape)} numbers for the shape {shape}, "
            f"got {values.size}"
        )
    return _fitted(values, dtype, where).reshape(shape)


def _fitted(values: Array, dtype: np.dtype[Any], where: str) -> Array:
    if dtype.kind in "iu" and values.size:
        bounds = np.iinfo(dtype)
        if int(values.min()) < bounds.min or int(values.max()) > bounds.max:
            raise bad_request(f"{where}: data: expected {bounds.min} to {bounds.max}, got more")
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(cast).all():
        raise bad_request(f"{where}: data: expected numbers that {dtype} holds, got larger ones")
    return cast


def written(name: str, array: Array, *, binary: bool) -> tuple[dict[str, Any], bytes]:
    """Encode one output: its entry, and what stands behind the JSON for it.

    Raises:
        RequestError: 500 when JSON cannot hold its numbers.
    """
    entry: dict[str, Any] = {
        "name": name,
        "datatype": _NAMES.get(array.dtype.name, array.dtype.name.upper()),
        "shape": list(array.shape),
    }
    if binary:
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        return entry | {"parameters": {"binary_data_size": len(data)}}, data
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RequestError(
            500, f"output {name!r} holds NaN or infinity, which JSON cannot; ask for binary data"
        )
    return entry | {"data": array.ravel().tolist()}, b""
