"""What a flavour that compiles at run time keeps: one entry a profile and set of shapes."""

from __future__ import annotations

import json
from typing import Any


class RuntimeConfig:
    _trt: Any

    def __init__(self) -> None:
        self._strategy: Any = None
        self._runtime_cache: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> Any:
        return self._trt.restrict(RuntimeCache, "IRuntimeCache")()

    def set_runtime_cache(self, cache: Any) -> bool:
        self._runtime_cache = cache
        return "runtime-cache" not in self._trt.faults


class RuntimeCache:
    _trt: Any

    def __init__(self) -> None:
        self._entries: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        try:
            content = json.loads(bytes(blob))
        except ValueError:
            return False
        if content["version"] != self._trt.__version__:
            return False
        self._entries |= set(content["entries"])
        return True

    def serialize(self) -> Any:
        if "serialize" in self._trt.faults:
            return None
        content = {"version": self._trt.__version__, "entries": sorted(self._entries)}
        return memoryview(json.dumps(content).encode())

    def _compile(self, entry: str) -> None:
        if entry not in self._entries:
            self._entries.add(entry)
            self._trt.compiled += 1
