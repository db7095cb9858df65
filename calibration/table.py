"""The result of calibration, and ``calibration.json``: ranges and digests, never the text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import CalibrationError
from ..passes.qdq.params import QuantParams
from .statistics import TensorStatistics

CALIBRATION_FILE = "calibration.json"
SCHEMA = 1


@dataclass(frozen=True)
class TensorRange:
    """The range of one tensor and what it was chosen from.

    Attributes:
        amax: the largest magnitude INT8 represents.
        statistics: what the corpus held.
    """

    amax: float
    statistics: TensorStatistics


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

    def params(self) -> dict[str, QuantParams]:
        """Symmetric INT8 parameters by tensor name, ready for `InsertQdq`.

        Raises:
            CalibrationError: naming the tensor whose range is unusable.
        """
        params = {}
        for name, found in self.ranges.items():
            try:
                params[name] = QuantParams.symmetric(found.amax)
            except CalibrationError as error:
                raise CalibrationError(f"tensor {name!r}: {error}") from error
        return params

    def to_json(self) -> str:
        """The text of ``calibration.json``: the same table gives the same bytes."""
        head = {key: value for key, value in vars(self).items() if key != "ranges"}
        ranges = {
            name: {"amax": found.amax} | asdict(found.statistics)
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
        except (ValueError, TypeError, KeyError, AttributeError) as error:
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
    return TensorRange(float(entry["amax"]), statistics)
