"""The half of TensorRT that builds: an ONNX graph in, a fake plan out."""

# ruff: noqa: ARG002
from __future__ import annotations

import ctypes
import enum
import json
from types import SimpleNamespace
from typing import Any

from .onnx_model import attached, write

GARBAGE = "Failed to deserialize timing cache. Returning an empty timing cache."


class BuilderFlag(enum.Enum):
    REFIT = 4
    TF32 = 7
    STRIP_PLAN = 19
    REFIT_IDENTICAL = 20
    WEIGHT_STREAMING = 21


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    DETAILED = 2


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class LayerType(enum.Enum):
    ELEMENTWISE = 0
    ATTENTION_INPUT = 1


class ComputeCapability(enum.Enum):
    NONE = 0
    CURRENT = 1
    SM80 = 80
    SM86 = 86
    SM89 = 89
    SM120 = 120


class SerializationFlag(enum.Enum):
    INCLUDE_REFIT = 2


class Builder:
    _trt: Any

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> Any:
        return self._trt.restrict(Network, "INetworkDefinition")()

    def create_builder_config(self) -> Any:
        return self._trt.restrict(BuilderConfig, "IBuilderConfig")(self._logger)

    def create_optimization_profile(self) -> Any:
        return self._trt.restrict(Profile, "IOptimizationProfile")()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        flags = {flag.name for flag in config._flags}
        cache = config._timing_cache
        if cache is not None:
            tactics = {node.op_type for node in network._proto.graph.node}
            self._trt.timed += len(tactics - cache._entries)
            cache._entries |= tactics
        if "build" in self._trt.faults:
            return None
        modes = {"REFIT": "any", "REFIT_IDENTICAL": "identical"}
        refit = next((mode for flag, mode in modes.items() if flag in flags), None)
        mode = {
            "refit": refit or ("identical" if "STRIP_PLAN" in flags else None),
            "stripped": "STRIP_PLAN" in flags,
            "streamed": "WEIGHT_STREAMING" in flags,
        }
        return memoryview(write(network._proto, mode))


class Profile:
    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        """Taken; a fake plan has the profiles of its module."""


class BuilderConfig:
    _trt: Any

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._flags = {BuilderFlag.TF32}
        self._timing_cache: Any = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        """Taken."""

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        return True

    def create_timing_cache(self, blob: bytes) -> Any:
        return self._trt.restrict(TimingCache, "ITimingCache")(self._logger, bytes(blob))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._timing_cache = cache
        return "timing-cache" not in self._trt.faults

    def get_timing_cache(self) -> Any:
        return self._timing_cache


class TimingCache:
    """TensorRT answers what it cannot read with a warning and an empty cache."""

    _trt: Any

    def __init__(self, logger: Any, blob: bytes) -> None:
        self._entries: set[str] = set()
        if not blob:
            return
        try:
            self._entries = set(json.loads(blob))
        except ValueError:
            logger.log(self._trt.ILogger.ERROR, "cudaError of the timing cache")
            logger.log(self._trt.ILogger.WARNING, GARBAGE)

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        self._entries |= input_cache._entries
        return True

    def serialize(self) -> Any:
        return memoryview(json.dumps(sorted(self._entries)).encode())


class OnnxParser:
    """Reads a graph and the weights that are handed over beside it."""

    _trt: Any

    def __init__(self, network: Any, logger: Any) -> None:
        self._network = network
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

    def parse_model_proto(self) -> bool:
        self._network._fill(attached(self._stub, self._arrays))
        return True


class Network:
    _trt: Any

    def _fill(self, proto: Any) -> None:
        self._proto = proto
        constants = {tensor.name for tensor in proto.graph.initializer}
        self._inputs = [_tensor(v.name) for v in proto.graph.input if v.name not in constants]
        self._outputs = [_tensor(v.name) for v in proto.graph.output]
        self._layers = [_layer(node) for node in proto.graph.node]

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]

    def get_layer(self, index: int) -> Any:
        return self._layers[index]

    def add_cast(self, tensor: Any, dtype: Any) -> Any:
        raise NotImplementedError


def _tensor(name: str) -> Any:
    return SimpleNamespace(name=name, is_shape_tensor=False)


def _layer(node: Any) -> Any:
    inputs, outputs = ([_tensor(n) for n in names if n] for names in (node.input, node.output))
    return SimpleNamespace(
        name=node.name,
        type=LayerType.ELEMENTWISE,
        num_inputs=len(inputs),
        num_outputs=len(outputs),
        get_input=lambda slot: inputs[slot],
        get_output=lambda slot: outputs[slot],
    )
