"""The numerics of symmetric INT8: scales, zero points, quantising and going back.

    q = clip(round_half_even(x / scale), -127, 127)        x ~ q * scale

The range is -127..127, not -128..127: it is symmetric, so that ``-x`` quantises to ``-q``.
Source: QuantizeLinear, https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CalibrationError

QMAX = 127
"""Largest quantised magnitude."""

SCALE_FLOOR = 2.0**-24
"""Scale of a tensor that is always zero: the smallest positive float16 (6e-8), so that a conversion
to float16 leaves it positive, as TensorRT demands of every scale."""


@dataclass(frozen=True, eq=False)
class QuantParams:
    """How one tensor is quantised: ``real = (q - zero_point) * scale``.

    Attributes:
        scale: float32 ``[]`` for a whole tensor or ``[channels]``; positive and finite.
        zero_point: int8 of the same shape; all zeros, because TensorRT refuses any other.
        axis: the channel axis that ``scale`` runs along, None for a whole tensor.

    Raises:
        CalibrationError: when dtypes, shapes or values are not as described.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int8]
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.scale.dtype != np.float32 or self.zero_point.dtype != np.int8:
            raise CalibrationError(
                "quantisation parameters: expected a float32 scale and an int8 zero point, "
                f"got {self.scale.dtype} and {self.zero_point.dtype}"
            )
        rank = 0 if self.axis is None else 1
        if self.scale.ndim != rank or self.scale.shape != self.zero_point.shape:
            raise CalibrationError(
                f"quantisation parameters: expected scale and zero point of rank {rank} for axis "
                f"{self.axis}, got shapes {self.scale.shape} and {self.zero_point.shape}"
            )
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise CalibrationError(
                "quantisation parameters: expected positive finite scales, "
                f"got a smallest of {self.scale.min()} and a largest of {self.scale.max()}"
            )
        if self.zero_point.any():
            raise CalibrationError(
                "quantisation parameters: expected zero points of 0 (symmetric int8), "
                f"got {self.zero_point.ravel()[:4].tolist()}"
            )

    @classmethod
    def symmetric(cls, amax: float | NDArray[Any], axis: int | None = None) -> QuantParams:
        """Parameters that cover ``-amax..amax``.

        Args:
            amax: largest magnitude, a scalar or ``[channels]``; zero means a dead tensor and gives
                `SCALE_FLOOR`.
            axis: channel axis, None when `amax` is a scalar.

        Raises:
            CalibrationError: when `amax` is negative, NaN or infinite.
        """
        largest = np.asarray(amax, dtype=np.float64)
        if not np.isfinite(largest).all() or (largest < 0).any():
            raise CalibrationError(
                f"quantisation range: expected finite magnitudes of at least 0, got {amax}"
            )
        scale = np.asarray(np.maximum(largest / QMAX, SCALE_FLOOR), dtype=np.float32)
        return cls(scale, np.zeros(scale.shape, np.int8), axis)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantParams):
            return NotImplemented
        return self.axis == other.axis and np.array_equal(self.scale, other.scale)

    def __hash__(self) -> int:
        return hash((self.axis, self.scale.tobytes()))


def quantize(x: NDArray[Any], params: QuantParams) -> NDArray[np.int8]:
    """Real values to int8, with ties to even as ONNX rounds.

    Args:
        x: float, any shape; with an axis, ``x.shape[axis]`` equals the number of scales.
        params: scale and axis.

    Returns:
        int8 of the same shape, within -127..127.
    """
    scaled = x / _along(params, x.ndim)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -QMAX, QMAX, out=scaled)
    return scaled.astype(np.int8)


def dequantize(q: NDArray[np.int8], params: QuantParams) -> NDArray[np.float32]:
    """int8 back to real values: float32 of the same shape."""
    return q.astype(np.float32) * _along(params, q.ndim)


def weight_params(weight: NDArray[Any], axis: int) -> QuantParams:
    """One scale an output channel, from the channel's largest magnitude.

    Args:
        weight: float, two or more axes.
        axis: the axis of the output channels: 1 for ``[K, N]``, 0 for ``[N, K]``.

    Raises:
        CalibrationError: when the weight holds NaN or infinity.
    """
    others = tuple(other for other in range(weight.ndim) if other != axis)
    # Two reductions instead of max(abs(w)): no temporary as large as the weight.
    low, high = weight.min(axis=others), weight.max(axis=others)
    return QuantParams.symmetric(np.maximum(-low, high).astype(np.float64), axis)


def _along(params: QuantParams, rank: int) -> NDArray[np.float32]:
    if params.axis is None:
        return params.scale
    shape = [1] * rank
    shape[params.axis] = params.scale.size
    return params.scale.reshape(shape)
