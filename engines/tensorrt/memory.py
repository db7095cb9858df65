"""GPU memory of an engine: stated when it is built, held against what is free when it loads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ...errors import BuildError, DeviceError
from ...graph.tensors import ShapeProfile, TensorSpec
from ..base import ExecutorOptions
from .cuda import Cuda

_SLOTS = 2
_BFLOAT16_BYTES = 2  # numpy has no such dtype


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes of GPU memory, at the largest shapes of the engine.

    Attributes:
        weights: once, for all lanes.
        workspace: scratch memory of a lane, for the neediest profile.
        buffers: inputs and outputs of one of a lane's two slots; outputs of unknown size are left
            out.
    """

    weights: int
    workspace: int
    buffers: int

    def total(self, lanes: int) -> int:
        """Of an engine with so many lanes."""
        return self.weights + lanes * (self.workspace + _SLOTS * self.buffers)

    def facts(self) -> dict[str, int]:
        """For ``engine.json`` and the report."""
        lanes = ExecutorOptions().lanes
        return {**vars(self), "lanes": lanes, "total": self.total(lanes)}

    def check(self, limit: int) -> tuple[str, ...]:
        """Hold the need to the memory of a GPU.

        Args:
            limit: bytes of the GPU.

        Returns:
            A warning when only fewer lanes than the default fit, else nothing.

        Raises:
            BuildError: when not even one lane fits.
        """
        lanes = ExecutorOptions().lanes
        if self.total(1) > limit:
            raise BuildError(
                f"the engine needs {_shown(self.total(1))} of GPU memory at its largest shapes "
                f"({self}), the GPU has {_shown(limit)}; build with a smaller --shapes, with "
                "--profiles auto, which bounds the tokens of a batch, or in a lower --precision"
            )
        if self.total(lanes) <= limit:
            return ()
        return (
            f"{lanes} lanes need {_shown(self.total(lanes))} of GPU memory at the largest shapes "
            f"({self}), the GPU has {_shown(limit)}: load the engine with lanes=1, or build with "
            "a smaller --shapes",
        )

    def __str__(self) -> str:
        return (
            f"weights {_shown(self.weights)}, and for a lane scratch memory "
            f"{_shown(self.workspace)} and {_SLOTS} sets of buffers of {_shown(self.buffers)}"
        )


def memory_need(
    tensors: Iterable[TensorSpec],
    profiles: tuple[ShapeProfile, ...],
    *,
    weights: int | None,
    workspace: int | None,
) -> MemoryNeed | None:
    """What an engine needs; None when the build did not say how much it computes in.

    Args:
        tensors: inputs and outputs that have memory of their own.
        profiles: of the engine.
        weights: bytes of the weights.
        workspace: bytes one execution context computes in.
    """
    if weights is None or workspace is None:
        return None
    buffers = sum(most_bytes(spec, profiles) for spec in tensors)
    return MemoryNeed(weights=weights, workspace=workspace, buffers=buffers)


def most_bytes(spec: TensorSpec, profiles: tuple[ShapeProfile, ...]) -> int:
    """What a tensor takes at its largest; 0 when the profiles leave that open."""
    return max(_bytes(spec, ranges.axes) for ranges in profiles)


def check_weights(cuda: Cuda, weights: int) -> None:
    """Refuse to open a plan whose weights do not fit what the GPU has free.

    Raises:
        DeviceError: with both figures.
    """
    free, total = cuda.memory()
    if weights > free:
        raise DeviceError(
            f"the engine's weights take {_shown(weights)}, but the GPU has {_shown(free)} free of "
            f"{_shown(total)}; free memory that other processes hold (nvidia-smi lists them), or "
            "use a larger GPU"
        )


def check_lanes(cuda: Cuda, workspace: int, lanes: int) -> None:
    """Refuse lanes whose scratch memory does not fit what the GPU has free beside the weights.

    Raises:
        DeviceError: with both figures, and how many lanes would fit.
    """
    free, total = cuda.memory()
    if lanes * workspace > free:
        fit = free // workspace
        advice = f"load it with lanes={fit}" if fit else "rebuild it with a smaller --shapes"
        raise DeviceError(
            f"{lanes} lanes of the engine compute in {_shown(lanes * workspace)}, but the GPU has "
            f"{_shown(free)} free of {_shown(total)}; {advice}, or free memory that other "
            "processes hold (nvidia-smi lists them)"
        )


def _bytes(spec: TensorSpec, axes: Mapping[str, tuple[int, int, int]]) -> int:
    sizes = (axes[dim][2] if isinstance(dim, str) and dim in axes else dim for dim in spec.dims)
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) * _itemsize(spec.dtype) if len(known) == len(spec.dims) else 0


def _itemsize(dtype: str) -> int:
    return _BFLOAT16_BYTES if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _shown(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB" if size >= 1 << 28 else f"{size / (1 << 20):.1f} MiB"
