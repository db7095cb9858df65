"""Changes of an activation's channels that leave the function as it is and INT8 a better range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import CalibrationError


@dataclass(frozen=True, eq=False)
class ChannelTransform:
    """``x' = x / scale - shift``, undone by the weight: ``x @ W = (x' + shift) @ (scale * W)``.

    The scale is SmoothQuant's (https://arxiv.org/abs/2211.10438), the shift that of Outlier
    Suppression+ (https://arxiv.org/abs/2304.09145).

    Attributes:
        scale: float32 ``[channels]``, positive and finite.
        shift: float32 ``[channels]``, in units of ``x'``: where the zero of ``x`` lies is
            ``x' = -shift``, so it should be a whole number of quantisation steps.

    Raises:
        CalibrationError: when dtypes, shapes or values are not as described.
    """

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.scale.dtype != np.float32 or self.shift.dtype != np.float32:
            raise CalibrationError(
                "channel transform: expected a float32 scale and shift, "
                f"got {self.scale.dtype} and {self.shift.dtype}"
            )
        if self.scale.ndim != 1 or self.scale.shape != self.shift.shape:
            raise CalibrationError(
                "channel transform: expected a scale and a shift for each channel, "
                f"got shapes {self.scale.shape} and {self.shift.shape}"
            )
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise CalibrationError("channel transform: expected positive finite scales")
        if not np.isfinite(self.shift).all():
            raise CalibrationError("channel transform: expected finite shifts")

    @property
    def is_uniform(self) -> bool:
        """Whether all channels are shifted by the same number."""
        return bool((self.shift == self.shift[0]).all())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChannelTransform):
            return NotImplemented
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.shift, other.shift)

    def __hash__(self) -> int:
        return hash((self.scale.tobytes(), self.shift.tobytes()))
