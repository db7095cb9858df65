"""The result of calibration, and ``calibration.json``: ranges and digests, never the text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CalibrationError
from ..passes.base import Pass
from ..passes.qdq.insert import InsertQdq
from ..passes.qdq.params import INT8, QuantParams, Scheme
from ..passes.qdq.policy import QuantPolicy
from ..passes.qdq.smooth import SmoothActivations, smoothed_name
from .ranges.smoothing import Smoothing
from .statistics.extrema import TensorStatistics
from .statistics.outlier import Outlier

CALIBRATION_FILE = "calibration.json"
SCHEMA = 4

_FAULTS = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What reading a text of another form ends in."""


@dataclass(frozen=True)
class TensorRange:
    """The range of one tensor and what it was chosen from.

    Attributes:
        amax: the largest magnitude INT8 represents, of the smoothed tensor if it is smoothed.
        statistics: what the corpus held.
        estimator: what chose `amax`.
        smoothing: how its channels are changed before they are quantised, None when they are not.
        outlier: its largest element as it was, None when nobody looked for it.
    """

    amax: float
    statistics: TensorStatistics
    estimator: str = "absmax"
    smoothing: Smoothing | None = None
    outlier: Outlier | None = None


@dataclass(frozen=True, kw_only=True)
class CalibrationTable:
    """The ranges of all quantised tensors, and where they come from.

    Attributes:
        method: name of the estimator.
        texts: how many texts were run.
        tokens: how many tokens they hold, special tokens included.
        source: where the texts came from, for the report, for example ``default corpus``.
        graph_digest: digest of the float graph that was run.
        data_digest: digest of the texts.
        ranges: by tensor name, in graph order.
    """

    method: str
    texts: int
    tokens: int
    source: str
    graph_digest: str
    data_digest: str
    ranges: Mapping[str, TensorRange]

    def passes(self, policy: QuantPolicy | None = None) -> tuple[Pass, ...]:
        """What turns the float graph that was calibrated into the INT8 graph.

        Args:
            policy: the one calibrated with, the default policy when None.

        Raises:
            CalibrationError: naming the tensor whose range is unusable.
        """
        policy = policy or QuantPolicy()
        smoothings = {
            name: found.smoothing
            for name, found in self.ranges.items()
            if found.smoothing is not None
        }
        transforms = {name: smoothing.transform for name, smoothing in smoothings.items()}
        centres = {smoothed_name(name): change.centre for name, change in smoothings.items()}
        insert = InsertQdq(self.params(policy.scheme), centres, policy)
        return (SmoothActivations(transforms, policy), insert) if transforms else (insert,)

    @classmethod
    def without_ranges(cls, graph_digest: str) -> CalibrationTable:
        """For what needs none: weights alone are quantised."""
        return cls(
            method="none",
            texts=0,
            tokens=0,
            source="",
            graph_digest=graph_digest,
            data_digest="",
            ranges={},
        )

    def params(self, scheme: Scheme = INT8) -> dict[str, QuantParams]:
        """Symmetric parameters by name of what is quantised.

        Args:
            scheme: format of the codes; the ranges are those of any.

        Raises:
            CalibrationError: naming the tensor whose range is unusable.
        """
        params = {}
        for name, found in self.ranges.items():
            quantized = name if found.smoothing is None else smoothed_name(name)
            try:
                params[quantized] = QuantParams.symmetric(found.amax, scheme=scheme)
            except CalibrationError as error:
                raise CalibrationError(f"tensor {name!r}: {error}") from error
        return params

    def notes(self) -> tuple[str, ...]:
        """What the user should know about the ranges, one sentence each."""
        still = [
            name
            for name, found in self.ranges.items()
            if found.statistics.minimum == found.statistics.maximum
        ]
        if not still:
            return ()
        others = f" and {len(still) - 1} more" if len(still) > 1 else ""
        value = self.ranges[still[0]].statistics.maximum
        return (
            f"constant activations: tensor {still[0]!r}{others} held nothing but {value:g} on "
            f"{self.source}, so its range fits no other text; check the weights, or give more text",
        )

    def to_json(self) -> str:
        """The text of ``calibration.json``: the same table gives the same bytes."""
        head = {key: value for key, value in vars(self).items() if key != "ranges"}
        ranges = {
            name: {"amax": found.amax, "estimator": found.estimator}
            | asdict(found.statistics)
            | ({} if found.outlier is None else {"outlier": asdict(found.outlier)})
            | _smoothing_json(found)
            for name, found in self.ranges.items()
        }
        return json.dumps({"schema": SCHEMA} | head | {"ranges": ranges}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str = CALIBRATION_FILE) -> CalibrationTable:
        """Read the text of ``calibration.json``.

        Args:
            text: the JSON text.
            origin: name of the file, for errors.

        Raises:
            CalibrationError: when it is not such a text, or of another schema.
        """
        try:
            data = json.loads(text)
            schema = data["schema"]
            if schema != SCHEMA:
                raise CalibrationError(
                    f"{origin}: expected schema {SCHEMA}, got {schema!r}; calibrate again"
                )
            return cls(
                method=str(data["method"]),
                texts=int(data["texts"]),
                tokens=int(data["tokens"]),
                source=str(data["source"]),
                graph_digest=str(data["graph_digest"]),
                data_digest=str(data["data_digest"]),
                ranges={name: _range(entry) for name, entry in data["ranges"].items()},
            )
        except _FAULTS as error:
            raise CalibrationError(
                f"{origin}: not a calibration table ({type(error).__name__}: {error}); "
                "calibrate again"
            ) from error

    def save(self, path: Path) -> None:
        """Write ``calibration.json``."""
        path.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> CalibrationTable:
        """Read ``calibration.json``.

        Raises:
            CalibrationError: when it is missing or not a calibration table.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CalibrationError(f"{path}: expected a readable JSON file: {error}") from error
        return cls.from_json(text, str(path))


def _range(entry: Mapping[str, Any]) -> TensorRange:
    statistics = TensorStatistics(
        count=int(entry["count"]),
        minimum=float(entry["minimum"]),
        maximum=float(entry["maximum"]),
    )
    amax, estimator = float(entry["amax"]), str(entry["estimator"])
    outlier = _outlier(entry.get("outlier"))
    if "alpha" not in entry:
        return TensorRange(amax, statistics, estimator, outlier=outlier)
    scale = np.array(entry["channel_scale"].split(), np.float32)
    steps = np.array(entry["channel_shift"].split(), np.int32)
    mean = np.array(entry["channel_mean"].split(), np.float32)
    if not scale.size == steps.size == mean.size > 0:
        raise ValueError(f"{scale.size} channel scales, {steps.size} shifts and {mean.size} means")
    alpha = float(entry["alpha"])
    smoothing = Smoothing(alpha=alpha, scale=scale, steps=steps, amax=amax, mean=mean)
    return TensorRange(amax, statistics, estimator, smoothing, outlier)


def _outlier(entry: Mapping[str, Any] | None) -> Outlier | None:
    if entry is None:
        return None
    token, position = entry["token"], entry["position"]
    return Outlier(
        value=float(entry["value"]),
        channel=int(entry["channel"]),
        median=float(entry["median"]),
        token=None if token is None else int(token),
        position=None if position is None else int(position),
    )


def _smoothing_json(found: TensorRange) -> dict[str, Any]:
    """Channels on one line each: a list would take a line for every number."""
    smoothing = found.smoothing
    if smoothing is None:
        return {}
    return {
        "alpha": smoothing.alpha,
        "channel_scale": " ".join(map(str, smoothing.scale)),
        "channel_shift": " ".join(map(str, smoothing.steps)),
        "channel_mean": " ".join(map(str, smoothing.mean)),
    }
