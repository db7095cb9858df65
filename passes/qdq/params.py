"""The numerics of symmetric 8-bit formats: scales, zero points, quantising and going back.

    q = clip(round_half_even(x / scale), -qmax, qmax)        x ~ q * scale

The range of INT8 is -127..127, not -128..127: it is symmetric, so that ``-x`` quantises to ``-q``.
FP8 is E4M3 without infinities, whose largest magnitude is 448.
Sources: QuantizeLinear, https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html; FP8 Formats for
Deep Learning, https://arxiv.org/abs/2209.05433.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import CalibrationError

QMAX = 127
"""Largest magnitude of INT8."""

SCALE_FLOOR = 2.0**-24
"""Scale of a tensor that is always zero: the smallest positive float16 (6e-8), so that a conversion
to float16 leaves it positive, as TensorRT demands of every scale."""


@dataclass(frozen=True)
class Scheme:
    """A format of codes that is symmetric around zero.

    Attributes:
        name: for people and file names.
        dtype: of the codes.
        qmax: the magnitude that the largest value of a tensor is scaled to.
    """

    name: str
    dtype: ir.DataType = field(repr=False)
    qmax: float = field(repr=False)

    def round(self, scaled: NDArray[Any]) -> NDArray[Any]:
        """Codes of real numbers in units of the scale, ties to even; `scaled` is overwritten."""
        np.clip(scaled, -self.qmax, self.qmax, out=scaled)
        if self.dtype.is_integer():
            np.rint(scaled, out=scaled)
        return scaled.astype(self.dtype.numpy())


INT8 = Scheme("int8", ir.DataType.INT8, QMAX)
FP8 = Scheme("fp8", ir.DataType.FLOAT8E4M3FN, 448.0)


@dataclass(frozen=True, eq=False)
class QuantParams:
    """How one tensor is quantised: ``real = q * scale``; TensorRT refuses other zero points than 0.

    Attributes:
        scale: float32 ``[]`` for a whole tensor or ``[channels]``; positive and finite.
        axis: the channel axis that ``scale`` runs along, None for a whole tensor.
        scheme: format of the codes.

    Raises:
        CalibrationError: when dtypes, shapes or values are not as described.
    """

    scale: NDArray[np.float32]
    axis: int | None = None
    scheme: Scheme = INT8

    def __post_init__(self) -> None:
        if self.scale.dtype != np.float32:
            raise CalibrationError(
                f"quantisation parameters: expected a float32 scale, got {self.scale.dtype}"
            )
        rank = 0 if self.axis is None else 1
        if self.scale.ndim != rank:
            raise CalibrationError(
                f"quantisation parameters: expected a scale of rank {rank} for axis {self.axis}, "
                f"got shape {self.scale.shape}"
            )
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise CalibrationError(
                "quantisation parameters: expected positive finite scales, "
                f"got a smallest of {self.scale.min()} and a largest of {self.scale.max()}"
            )

    @property
    def zero_point(self) -> NDArray[Any]:
        """Zeros of the codes' type, shaped like the scale; ONNX takes an absent one as uint8."""
        return np.zeros(self.scale.shape, self.scheme.dtype.numpy())

    @classmethod
    def symmetric(
        cls, amax: float | NDArray[Any], axis: int | None = None, scheme: Scheme = INT8
    ) -> QuantParams:
        """Parameters that cover ``-amax..amax``.

        Args:
            amax: largest magnitude, a scalar or ``[channels]``; zero means a dead tensor and gives
                `SCALE_FLOOR`.
            axis: channel axis, None when `amax` is a scalar.
            scheme: format of the codes.

        Raises:
            CalibrationError: when `amax` is negative, NaN or infinite.
        """
        largest = np.asarray(amax, dtype=np.float64)
        if not np.isfinite(largest).all() or (largest < 0).any():
            raise CalibrationError(
                f"quantisation range: expected finite magnitudes of at least 0, got {amax}"
            )
        scale = np.asarray(np.maximum(largest / scheme.qmax, SCALE_FLOOR), dtype=np.float32)
        return cls(scale, axis, scheme)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantParams):
            return NotImplemented
        form, others = (self.axis, self.scheme), (other.axis, other.scheme)
        return form == others and np.array_equal(self.scale, other.scale)

    def __hash__(self) -> int:
        return hash((self.axis, self.scheme, self.scale.tobytes()))


def quantize(x: NDArray[Any], params: QuantParams) -> NDArray[Any]:
    """Real values to codes, with ties to even as ONNX rounds.

    Args:
        x: float, any shape; with an axis, ``x.shape[axis]`` equals the number of scales.
        params: scale, axis and format.

    Returns:
        Codes of the same shape, of magnitude ``qmax`` at most.
    """
    return params.scheme.round(x / _along(params, x.ndim))


def dequantize(q: NDArray[Any], params: QuantParams) -> NDArray[np.float32]:
    """Codes back to real values: float32 of the same shape."""
    return q.astype(np.float32) * _along(params, q.ndim)


def weight_params(weight: NDArray[Any], axis: int, scheme: Scheme = INT8) -> QuantParams:
    """One scale an output channel, from the channel's largest magnitude.

    Args:
        weight: float, two or more axes.
        axis: the axis of the output channels: 1 for ``[K, N]``, 0 for ``[N, K]``.
        scheme: format of the codes.

    Raises:
        CalibrationError: when the weight holds NaN or infinity.
    """
    others = tuple(other for other in range(weight.ndim) if other != axis)
    # Two reductions instead of max(abs(w)): no temporary as large as the weight.
    low, high = weight.min(axis=others), weight.max(axis=others)
    return QuantParams.symmetric(np.maximum(-low, high).astype(np.float64), axis, scheme)


def _along(params: QuantParams, rank: int) -> NDArray[np.float32]:
    if params.axis is None:
        return params.scale
    shape = [1] * rank
    shape[params.axis] = params.scale.size
    return params.scale.reshape(shape)
