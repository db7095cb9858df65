"""New weights for a fake plan, by name or by its graph."""

# ruff: noqa: ARG002
from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .onnx_model import OnnxModel, attached, digest, weights_of
from .streams import MisuseError


class Refitter:
    """Takes all weights of a model or none of them; a refit that fails has taken half."""

    _trt: Any

    def __init__(self, engine: Any, logger: Any) -> None:
        self._engine = engine
        self._new: dict[str, np.ndarray] = {}

    def get_all_weights(self) -> list[str]:
        return list(self._engine._model.weights)

    def get_missing_weights(self) -> list[str]:
        return [name for name in self._engine._model.weights if name not in self._new]

    def set_named_weights(self, name: str, weights: np.ndarray) -> bool:
        old = self._engine._model.weights[name]
        if (old.size, old.dtype) != (weights.size, weights.dtype):
            self._engine._runtime._logger.log(
                self._trt.ILogger.ERROR, f"{name}: the size is another"
            )
            return False
        self._new[name] = weights
        return True

    def refit_cuda_engine(self) -> bool:
        cuda, model = self._trt.cuda, self._engine._model
        runs = {block.scratch_of for block in cuda.memory.values()} - {None}
        if any(stream.work for stream in runs):
            raise MisuseError("the engine has pending work")
        if self._engine._runtime._fails("refit"):
            half = list(self._new)[: len(self._new) // 2]
            model.weights.update({name: self._new[name] for name in half})
            return False
        model.weights.update(self._new)
        if isinstance(model, OnnxModel):
            _refuse_others(model)
            model.refresh()
        return True


class OnnxParserRefitter:
    """Finds the weights of a graph in a plan."""

    _trt: Any

    def __init__(self, refitter: Any, logger: Any) -> None:
        self._refitter = refitter
        self._logger = logger
        self._arrays: dict[str, bytes] = {}

    @property
    def num_errors(self) -> int:
        return 0

    def get_error(self, index: int) -> Any:
        raise IndexError(index)

    def load_model_proto(self, model: bytes) -> bool:
        self._stub = bytes(model)
        return True

    def load_initializer(self, name: str, data: int, size: int) -> bool:
        self._arrays[name] = ctypes.string_at(data, size)
        return True

    def refit_model_proto(self) -> bool:
        if self._refitter._engine._runtime._fails("refit-model"):
            return False
        known = self._refitter.get_all_weights()
        found = weights_of(attached(self._stub, self._arrays))
        return all(
            self._refitter.set_named_weights(name, array)
            for name, array in found.items()
            if name in known
        )


class SerializationConfig:
    _trt: Any

    def __init__(self) -> None:
        self._flags: set[Any] = set()

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag)


def _refuse_others(model: OnnxModel) -> None:
    if model.mode["refit"] != "identical":
        return
    for name, array in model.weights.items():
        if digest(array) != model.mode["sha256"][name]:
            raise MisuseError(f"{name}: other weights in a plan for identical ones are undefined")
