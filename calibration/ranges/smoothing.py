"""Scales and shifts that give every channel of an activation the range INT8 has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...passes.qdq.params import QMAX, QuantParams
from ...passes.qdq.sites import Shift
from ...passes.qdq.transform import ChannelTransform

Floats = NDArray[np.float32]

_DIGITS = 4
"""Significant digits of a scale: any number does, and ``calibration.json`` stays small."""

_LEAST_CHANNEL = 1e-2
"""A channel is treated as if it reached this part of the median channel at least: text that was not
seen may use it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Smoothing:
    """How one activation is changed and quantised.

    Attributes:
        alpha: how much of the difficulty moves into the weight, 0 to 1.
        scale: float32 ``[channels]``.
        steps: the shift as whole quantisation steps, int32 ``[channels]``.
        amax: largest magnitude of the changed activation.
    """

    alpha: float
    scale: Floats
    steps: NDArray[np.int32]
    amax: float

    @property
    def params(self) -> QuantParams:
        """How the changed activation is quantised."""
        return QuantParams.symmetric(self.amax)

    @property
    def transform(self) -> ChannelTransform:
        """The change."""
        return ChannelTransform(self.scale, self.steps.astype(np.float32) * self.params.scale)

    def clipped(self, part: float) -> Smoothing:
        """The same change with a part of the range, 0 to 1: finer steps, and saturation.

        A tensor whose channels are shifted alike lies on one side of zero: the far end is cut.
        Else both ends are.
        """
        shift = self.steps * (self.amax / QMAX)
        if self.steps.any() and (self.steps == self.steps[0]).all():
            shift = shift - np.sign(shift) * self.amax * (1 - part)
        amax = self.amax * part
        steps = np.rint(shift / float(QuantParams.symmetric(amax).scale)).astype(np.int32)
        return replace(self, amax=amax, steps=steps)

    def with_amax(self, amax: float) -> Smoothing:
        """The same codes with another step: the scale takes the difference."""
        scale = _rounded(self.scale.astype(np.float64) * (self.amax / amax))
        return replace(self, scale=scale, amax=amax)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Smoothing):
            return NotImplemented
        return (self.alpha, self.amax) == (other.alpha, other.amax) and (
            np.array_equal(self.scale, other.scale) and np.array_equal(self.steps, other.steps)
        )

    def __hash__(self) -> int:
        return hash((self.alpha, self.amax, self.scale.tobytes(), self.steps.tobytes()))


def smooth(
    low: Floats,
    high: Floats,
    weight_max: Floats,
    alpha: float,
    *,
    shift: Shift,
    tied: NDArray[np.intp] | None = None,
) -> Smoothing:
    """Balance the channels of an activation with the rows of its weights.

        scale = range ** alpha / weight_max ** (1 - alpha)

    Args:
        low: smallest element of each channel, ``[channels]``.
        high: largest element of each channel.
        weight_max: largest magnitude in each row of all weights that read the tensor.
        alpha: 0.85 to 1 suits transformers; at 0.5, the paper's default, MiniLM has 9 dB.
        shift: what the producer of the tensor can take.
        tied: channels with equal numbers get equal scales.
    """
    least, most = low.astype(np.float64), high.astype(np.float64)
    half = (most - least) / 2 if shift == "channel" else np.maximum(-least, most)
    reach, rows = (_floored(_tie(values, tied)) for values in (half, weight_max.astype(np.float64)))
    balance = reach**alpha / rows ** (1 - alpha)
    scale = _rounded(balance / np.exp(np.log(balance).mean()))
    least, most = least / scale, most / scale
    if shift == "none":
        amax = float(max(-least.min(), most.max()))
        return Smoothing(alpha=alpha, scale=scale, steps=np.zeros(scale.size, np.int32), amax=amax)
    if shift == "uniform":  # one zero point for all: zero itself stays inside
        least = np.full_like(least, min(least.min(), 0.0))
        most = np.full_like(most, max(most.max(), 0.0))
    # Half a step is left for rounding the shift.
    amax = float((most - least).max() / 2 * QMAX / (QMAX - 0.5))
    step = float(QuantParams.symmetric(amax).scale)
    steps = np.rint((least + most) / 2 / step).astype(np.int32)
    return Smoothing(alpha=alpha, scale=scale, steps=steps, amax=amax)


def _tie(values: NDArray[np.float64], tied: NDArray[np.intp] | None) -> NDArray[np.float64]:
    if tied is None:
        return values
    largest = np.zeros(int(tied.max()) + 1)
    np.maximum.at(largest, tied, values)
    return largest[tied]


def _floored(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep channels that text hardly used, or never, from getting a scale near 0."""
    largest = float(values.max())
    if largest == 0:
        return np.ones_like(values)
    return np.maximum(values, max(_LEAST_CHANNEL * float(np.median(values)), 1e-5 * largest))


def _rounded(scale: NDArray[np.float64]) -> Floats:
    digits = 10.0 ** (_DIGITS - 1 - np.floor(np.log10(scale)))
    return (np.rint(scale * digits) / digits).astype(np.float32)
