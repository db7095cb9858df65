"""What is compared: each peer with its usual settings, and with the best ones that we know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

PLACED = {
    "OpTypesToExcludeOutputQuantization": ["MatMul"],
    "DedicatedQDQPair": True,
}
"""Options of quantize_static that put Q/DQ on the inputs of the linears alone, as fuselage does.

Without them the outputs of linears and the residual sums are quantized too. neural-compressor sets
them for TensorRT; they are off by default.
"""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table.

    Attributes:
        name: how the table calls it.
        environment: a key of `ENVIRONMENTS`; empty for fuselage.
        tool: of the worker.
        options: of the tool.
        feeds: forms of the texts, tried in this order until one works.
        kind: ``dynamic``, ``static`` or ``own``.
        limit: texts at most, for a tool whose memory grows by 40 MB a text.
    """

    name: str
    environment: str
    tool: str
    options: Mapping[str, Any] = field(default_factory=dict)
    feeds: tuple[str, ...] = ("by length", "padded")
    kind: str = "static"
    limit: int | None = None

    @property
    def folder(self) -> str:
        """A name for its files."""
        return "".join(c if c.isalnum() else "-" for c in self.name)


def _dynamic(name: str, **options: Any) -> Method:
    return Method(
        name=f"ORT dynamic, {name}",
        environment="onnxruntime",
        tool="ort dynamic",
        options=options,
        kind="dynamic",
    )


def _signs(activations: str) -> dict[str, Any]:
    """int8 symmetric; uint8 with the zero point where the range wants it."""
    return {"ActivationSymmetric": activations == "QInt8", "WeightSymmetric": True}


def _static(
    name: str,
    method: str,
    extra: Mapping[str, Any] = MappingProxyType({}),
    *,
    linears: bool = True,
    activations: str = "QInt8",
) -> Method:
    options = {
        "method": method,
        "operators": ["MatMul"],
        "linears": linears,
        "activations": activations,
        "extra": {**extra, **_signs(activations)},
    }
    return Method(
        name=f"ORT static, {name}",
        environment="onnxruntime",
        tool="ort static",
        options=options,
    )


def _percentile(percentile: float) -> dict[str, Any]:
    return {"CalibPercentile": percentile}


_STREAMED = {"CalibStridedMinMax": 1}
"""Each batch goes into the histograms at once: no padding is needed, and memory is bounded."""


def _smooth(
    name: str,
    settings: Mapping[str, Any],
    extra: Mapping[str, Any] = MappingProxyType({}),
    *,
    activations: str = "QInt8",
    limit: int | None = None,
) -> Method:
    return Method(
        name=f"neural-compressor SmoothQuant, {name}",
        environment="onnx-neural-compressor",
        tool="smooth quant",
        options={
            "linears": True,
            "activations": activations,
            "extra": {**extra, **_signs(activations)},
            "settings": settings,
        },
        limit=limit,
    )


def _modelopt(name: str, *, linears: bool = False, **settings: Any) -> Method:
    return Method(
        name=f"modelopt {name}",
        environment="modelopt",
        tool="modelopt",
        options={"linears": linears, "settings": settings},
    )


METHODS = (
    _dynamic("weights per tensor", per_channel=False),
    _dynamic("weights per channel", per_channel=True),
    _static("minmax, linears", "MinMax"),
    _static("minmax, every MatMul", "MinMax", linears=False),
    Method(
        name="ORT static, minmax, default operators",
        environment="onnxruntime",
        tool="ort static",
        options={"method": "MinMax", "extra": {"ActivationSymmetric": True}},
    ),
    _static("entropy, linears", "Entropy"),
    _static("percentile 99.999, linears", "Percentile"),
    _static("percentile 99.99, linears", "Percentile", _percentile(99.99)),
    _static(
        "percentile 99.99, linears, streamed",
        "Percentile",
        {**_percentile(99.99), **_STREAMED},
    ),
    _static("minmax, inputs of linears", "MinMax", PLACED),
    _static(
        "percentile 99.99, inputs of linears, streamed",
        "Percentile",
        {**PLACED, **_percentile(99.99), **_STREAMED},
    ),
    _static("uint8 minmax, inputs of linears", "MinMax", PLACED, activations="QUInt8"),
    _static(
        "uint8 percentile 99.99, inputs of linears, streamed",
        "Percentile",
        {**PLACED, **_percentile(99.99), **_STREAMED},
        activations="QUInt8",
    ),
    _modelopt("max", calibration_method="max"),
    _modelopt("entropy", calibration_method="entropy"),
    _modelopt(
        "max, linears", linears=True, calibration_method="max", op_types_to_quantize=["MatMul"]
    ),
    _smooth("alpha 0.5", {"alpha": 0.5}),
    _smooth("alpha auto, 64 texts", {"alpha": "auto"}, limit=64),
    _smooth("alpha 0.9, inputs of linears", {"alpha": 0.9}, PLACED),
    _smooth(
        "uint8, alpha 0.9, inputs of linears",
        {"alpha": 0.9, "scales_per_op": False},
        PLACED,
        activations="QUInt8",
    ),
    Method(name="fuselage", environment="", tool="fuselage", kind="own"),
)
