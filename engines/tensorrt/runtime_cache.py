"""Kernels that a flavour compiles at run time, kept in the user's cache for the next process.

TensorRT-RTX compiles for the GPU when contexts are made and shapes first run, and keeps what it
compiled in an ``IRuntimeCache``; TensorRT compiles in the build and has none.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..user_cache import cache_folder
from .facts import BuildMachine

KERNELS = "tensorrt-kernels"
"""Folder below the user's cache."""

_MOST_FILES = 32
_MOST_BYTES = 1 << 30


class RuntimeCache:
    """What one engine compiled here, and the file it is kept in.

    Args:
        runtime_config: an ``IRuntimeConfig`` that gives contexts the cache.
        runtime_cache: the ``IRuntimeCache``.
        file: where it is kept, there or not.

    Attributes:
        config: to make contexts with.
        note: what the user should know about the file; None when nothing.
    """

    def __init__(self, runtime_config: Any, runtime_cache: Any, file: Path) -> None:
        self.config = runtime_config
        self.note: str | None = None
        self._runtime_cache = runtime_cache
        self._file = file
        self._kept = b""
        self._read()

    @classmethod
    def of(cls, trt: Any, engine: Any, plan: bytes, here: BuildMachine) -> RuntimeCache | None:
        """The cache of a plan on this machine.

        Returns:
            None when the flavour compiles nothing at run time, or the user has no cache folder.
        """
        folder = cache_folder()
        if folder is None or not hasattr(engine, "create_runtime_config"):
            return None
        runtime_config = engine.create_runtime_config()
        if not hasattr(runtime_config, "create_runtime_cache"):
            return None
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        runtime_config.set_execution_context_allocation_strategy(strategy)
        runtime_cache = runtime_config.create_runtime_cache()
        file = folder / KERNELS / _name(plan, str(trt.__version__), here)
        found = cls(runtime_config, runtime_cache, file)
        return found if runtime_config.set_runtime_cache(runtime_cache) else None

    def keep(self) -> None:
        """Write what was compiled since the file was read; nothing when that is nothing.

        A cache that cannot be written is no error: the next process compiles again.
        """
        with suppress(OSError, RuntimeError):
            content = self._serialized()
            if content and content != self._kept and len(content) <= _MOST_BYTES:
                _replace(self._file, content)
                _prune(self._file.parent)
                self._kept = content

    def _serialized(self) -> bytes:
        memory = self._runtime_cache.serialize()
        return b"" if memory is None else bytes(memory)

    def _read(self) -> None:
        with suppress(OSError):
            if self._file.stat().st_size > _MOST_BYTES:
                return
            content = self._file.read_bytes()
            if self._runtime_cache.deserialize(content):
                self._kept = content
                os.utime(self._file)
            else:
                self.note = (
                    f"{self._file}: kernels kept from before are not for this GPU, driver and "
                    "version, or damaged; they are compiled again"
                )


def _name(plan: bytes, version: str, here: BuildMachine) -> str:
    machine = f"{here.gpu} {here.compute_capability} {here.driver} {version}"
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", machine)
    return f"{hashlib.sha256(plan).hexdigest()[:32]}-{plain}"


def _replace(file: Path, content: bytes) -> None:
    """All of it or nothing, also beside other processes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    """Keep the files that were used last."""
    by_age = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in by_age[:-_MOST_FILES]:
        path.unlink(missing_ok=True)
