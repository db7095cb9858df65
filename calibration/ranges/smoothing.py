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

_LEAST_REACH, _LEAST_ROW = 1.0, 1e-2
"""Parts of the median. A channel is treated as if it reached as far as the median channel at least:
text that was not seen may use it. On MiniLM +0.3 dB, and 1.6 dB for text of another kind."""

_LOUDNESS_FLOOR = 1e-6
"""Least energy of an answer, as part of their mean, that a token's error is divided by."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """What the channels of an activation hold, each token weighed by one over its answer's energy.

    Unweighed, [CLS] would decide: calibrated with the shipped corpus, MiniLM loses 0.3 dB.

    Attributes:
        mean: what rounded weights do not change the answer of, float32 ``[channels]``.
        variance: around it, float64 ``[channels]``.
    """

    mean: Floats
    variance: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Floats, weight: Floats, *, centred: bool) -> Moments:
        """Look at some rows.

        Args:
            rows: of the activation, ``[rows, K]``.
            weight: that they are multiplied with, ``[K, N]``.
            centred: False to take zero for the mean, where no bias could make up for it.
        """
        share = 1 / loudness(rows @ weight).astype(np.float64)
        share /= share.sum()
        mean = _rounded(share @ rows if centred else np.zeros(rows.shape[1]))
        return cls(mean=mean, variance=share @ np.square(rows - mean))


def loudness(answers: Floats) -> Floats:
    """Energy of each row, ``[rows]``, never 0."""
    energy = np.square(answers).sum(axis=1)
    return np.asarray(np.maximum(energy, _LOUDNESS_FLOOR * energy.mean() + 1e-30))


@dataclass(frozen=True, kw_only=True, eq=False)
class Smoothing:
    """How one activation is changed and quantised.

    Attributes:
        alpha: how much of the difficulty moves into the weight, 0 to 1.
        scale: float32 ``[channels]``.
        steps: the shift as whole quantisation steps, int32 ``[channels]``.
        amax: largest magnitude of the changed activation.
        mean: of each channel as it was, float32 ``[channels]``.
    """

    alpha: float
    scale: Floats
    steps: NDArray[np.int32]
    amax: float
    mean: Floats

    @property
    def params(self) -> QuantParams:
        """How the changed activation is quantised."""
        return QuantParams.symmetric(self.amax)

    @property
    def transform(self) -> ChannelTransform:
        """The change."""
        return ChannelTransform(self.scale, self.steps.astype(np.float32) * self.params.scale)

    @property
    def centre(self) -> Floats:
        """Mean of each channel of the changed activation."""
        return self.mean / self.scale - self.transform.shift

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
            np.array_equal(self.scale, other.scale)
            and np.array_equal(self.steps, other.steps)
            and np.array_equal(self.mean, other.mean)
        )

    def __hash__(self) -> int:
        return hash((self.alpha, self.amax, self.scale.tobytes(), self.steps.tobytes()))


def smooth(
    low: Floats,
    high: Floats,
    weight: Floats,
    alpha: float,
    *,
    shift: Shift,
    moments: Moments | None = None,
    tied: NDArray[np.intp] | None = None,
) -> Smoothing:
    """Balance the channels of an activation with the rows of its weights.

        scale = range ** alpha / weight_max ** (1 - alpha)

    and more where the weights gain by it, see `_raised`.

    Args:
        low: smallest element of each channel, ``[channels]``.
        high: largest element of each channel.
        weight: all weights that read the tensor beside one another, ``[channels, N]``.
        alpha: 0.85 to 1 suits transformers; at 0.5, the paper's default, MiniLM has 9 dB.
        shift: what the producer of the tensor can take.
        moments: of the channels; None to raise nothing.
        tied: channels with equal numbers get equal scales.
    """
    least, most = low.astype(np.float64), high.astype(np.float64)
    magnitude = np.abs(weight)
    half = (most - least) / 2 if shift == "channel" else np.maximum(-least, most)
    reach = _floored(_tie(half, tied), _LEAST_REACH)
    rows = _floored(_tie(magnitude.max(axis=1).astype(np.float64), tied), _LEAST_ROW)
    balance = reach**alpha / rows ** (1 - alpha)
    if moments is not None:
        amax, _ = _range(least / balance, most / balance, shift)
        raised = _raised(balance, amax, magnitude, moments.variance)
        balance = np.maximum(balance, -_tie(-raised, tied))
    scale = _rounded(balance / np.exp(np.log(balance).mean()))
    amax, steps = _range(least / scale, most / scale, shift)
    mean = np.zeros_like(scale) if moments is None else moments.mean
    return Smoothing(alpha=alpha, scale=scale, steps=steps, amax=amax, mean=mean)


def _range(
    least: NDArray[np.float64], most: NDArray[np.float64], shift: Shift
) -> tuple[float, NDArray[np.int32]]:
    """Largest magnitude behind the best shift, and that shift in steps."""
    if shift == "none":
        return float(max(-least.min(), most.max())), np.zeros(least.size, np.int32)
    if shift == "uniform":  # one zero point for all: zero itself stays inside
        least = np.full_like(least, min(least.min(), 0.0))
        most = np.full_like(most, max(most.max(), 0.0))
    # Half a step is left for rounding the shift.
    amax = float((most - least).max() / 2 * QMAX / (QMAX - 0.5))
    step = float(QuantParams.symmetric(amax).scale)
    return amax, np.rint((least + most) / 2 / step).astype(np.int32)


def _raised(
    scale: NDArray[np.float64], amax: float, magnitude: Floats, variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scales with the least noise that leave the largest weight of each output channel as it is.

    Rounding the activation and its weights adds to the answer, in the same unit,

        amax^2 sum_k s_k^2 |w_k|^2    and    sum_n m_n^2 sum_k variance_k / s_k^2

    where ``m_n`` is the largest ``s_k |w_kn|``. Outliers decide ``m_n``: on MiniLM all other
    channels of a feed-forward have room for larger scales, and finer weights with them: +0.1 to
    0.3 dB, +0.9 without `_LEAST_REACH`.

    Args:
        scale: that is raised, ``[channels]``.
        amax: largest magnitude of the activation with this scale.
        magnitude: of the weights, ``[channels, N]``.
        variance: of the channels.
    """
    largest = np.maximum((magnitude * scale[:, None].astype(np.float32)).max(axis=0), _TINY)
    part = (magnitude / largest).max(axis=1).astype(np.float64)
    rows = np.square(magnitude).sum(axis=1, dtype=np.float64)
    used = (part > 0) & (rows > 0)
    energy = amax**2 * np.where(used, rows, 1.0)
    best = (np.square(largest).sum(dtype=np.float64) * variance / np.maximum(energy, _TINY)) ** 0.25
    return np.where(used, np.minimum(best, 1 / np.where(used, part, 1.0)), 0.0)


_TINY = 1e-30


def _tie(values: NDArray[np.float64], tied: NDArray[np.intp] | None) -> NDArray[np.float64]:
    if tied is None:
        return values
    largest = np.full(int(tied.max()) + 1, -np.inf)
    np.maximum.at(largest, tied, values)
    return largest[tied]


def _floored(values: NDArray[np.float64], part: float) -> NDArray[np.float64]:
    """Keep channels that text hardly used, or never, from getting a scale near 0."""
    largest = float(values.max())
    if largest == 0:
        return np.ones_like(values)
    return np.maximum(values, max(part * float(np.median(values)), 1e-5 * largest))


def _rounded(values: NDArray[np.float64]) -> Floats:
    exponent = np.floor(np.log10(np.abs(np.where(values == 0, 1.0, values))))
    digits = 10.0 ** (_DIGITS - 1 - exponent)
    return (np.rint(values * digits) / digits).astype(np.float32)
