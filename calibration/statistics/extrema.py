"""What calibration keeps of a tensor: one small value, however long the corpus is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import CalibrationError
from ...graph.tensors import Array


@dataclass(frozen=True, kw_only=True)
class TensorStatistics:
    """Extrema of everything a tensor held. Values merge in any order to the same result.

    Attributes:
        count: elements seen, at least 1.
        minimum: smallest element.
        maximum: largest element.
    """

    count: int
    minimum: float
    maximum: float

    @classmethod
    def of(cls, name: str, values: Array) -> TensorStatistics:
        """Look at one batch.

        Args:
            name: of the tensor, for the error.
            values: float, any shape, without padding.

        Raises:
            CalibrationError: when it is empty or holds NaN or infinity.
        """
        if values.size == 0:
            raise CalibrationError(f"tensor {name!r}: expected values, got shape {values.shape}")
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            bad = int(np.count_nonzero(~np.isfinite(values.astype(np.float64))))
            raise CalibrationError(
                f"tensor {name!r}: {bad} of {values.size} activations are NaN or infinite; "
                "expected finite values, so no INT8 range can hold them; check the model in float32"
            )
        return cls(count=values.size, minimum=low, maximum=high)

    @property
    def absmax(self) -> float:
        """Largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """The statistics of both together."""
        return TensorStatistics(
            count=self.count + other.count,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
        )
