"""A plan that is an ONNX graph with its weights in it, or without them, and says what it takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .model import PLAN, FakeModel

if TYPE_CHECKING:
    import onnx  # the kit for a machine with a GPU uses the fake, and onnx may be missing there


class OnnxModel(FakeModel):
    """A model whose weights can be replaced.

    Attributes:
        mode: ``refit`` (any, identical or None), ``stripped``, ``streamed``, and ``sha256`` of
            each weight it was built with.
        filled: False while a stripped plan waits for its weights.
    """

    mode: Mapping[str, Any]
    filled: bool

    @classmethod
    def read(cls, plan: bytes) -> OnnxModel:
        """What `write` wrote."""
        import onnx

        header, _, body = plan.removeprefix(PLAN + b" ").partition(b"\n")
        found = FakeModel.of_onnx(body)
        self = cls(found.inputs, found.outputs, found.function)
        self.mode = json.loads(header)
        self.proto = onnx.load_from_string(body)
        self.weights = weights_of(self.proto)
        self.filled = not self.mode["stripped"]
        return self

    def refresh(self) -> None:
        """Compute with the weights there are now."""
        for name, array in self.weights.items():
            tensor = next(t for t in self.proto.graph.initializer if t.name == name)
            tensor.raw_data = array.tobytes()
        self.function = FakeModel.of_onnx(self.proto.SerializeToString()).function
        self.filled = True

    def write(self, *, stripped: bool) -> bytes:
        """The plan with the weights it has now."""
        return write(self.proto, {**self.mode, "stripped": stripped})


def write(proto: onnx.ModelProto, mode: Mapping[str, Any]) -> bytes:
    """A plan; one that is stripped has zeros for weights."""
    import onnx

    kept = onnx.ModelProto()
    kept.CopyFrom(proto)
    sha256 = {name: digest(array) for name, array in weights_of(kept).items()}
    for tensor in kept.graph.initializer if mode["stripped"] else ():
        if tensor.name in sha256:
            tensor.raw_data = bytes(len(tensor.raw_data))
    header = json.dumps({**mode, "sha256": sha256})
    return PLAN + b" " + header.encode() + b"\n" + kept.SerializeToString()


def attached(stub: bytes, arrays: Mapping[str, bytes]) -> onnx.ModelProto:
    """A graph with the weights that were handed over beside it."""
    import onnx

    proto = onnx.load_from_string(stub)
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.raw_data = arrays[tensor.name]
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
    return proto


def weights_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Name -> values of all that are floats: sizes and axes are part of the plan."""
    import onnx

    found = {
        tensor.name: onnx.numpy_helper.to_array(tensor).copy() for tensor in proto.graph.initializer
    }
    return {name: array for name, array in found.items() if array.dtype.kind == "f"}


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
