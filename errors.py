"""Every error fuselage raises on purpose.

FuselageError
├── SourceError          the model cannot be found, read or downloaded
├── ExportError          PyTorch cannot turn the model into ONNX, or the task does not fit it
├── GraphError           an ONNX graph is malformed, foreign, truncated or holds NaN weights
│   └── OpsetError       the graph imports an opset a pass or a target cannot use
├── PassError            a rewrite pass broke its contract
├── CalibrationError     the calibration text or its statistics cannot give ranges
├── BuildError           a backend could not build the engine that was asked for
├── BundleError          a bundle on disk is missing, damaged, incomplete or of another schema
├── DeviceError          the engine is sound, but this machine cannot run it
├── FeedError            wrong names, dtypes, ranks or sizes were fed to an engine
├── TextError            a text (or pair, or question) cannot be tokenised as asked
├── MissingPackageError  an optional package is not installed
├── ServingError         a request was not answered for want of time or room, not for what it asks
│   ├── OverloadError    too many wait already; sound after a moment
│   ├── DeadlineError    its deadline passed first
│   └── DrainingError    no more requests are taken
└── VerificationError    an engine does not answer like the model

A message says what was expected, what was got, where, and what to do.
"""

from __future__ import annotations


class FuselageError(Exception):
    """Base of all errors of fuselage; the command line prints it and exits with 1."""


class SourceError(FuselageError):
    """The model cannot be found, read or downloaded."""


class ExportError(FuselageError):
    """The model cannot be exported to ONNX, or the task does not fit it."""


class GraphError(FuselageError):
    """An ONNX graph is malformed, foreign, truncated or holds unusable weights."""


class OpsetError(GraphError):
    """The graph imports an opset that a pass or a target cannot use."""


class PassError(FuselageError):
    """A rewrite pass broke its contract."""


class CalibrationError(FuselageError):
    """The calibration text or its statistics cannot give ranges."""


class BuildError(FuselageError):
    """A backend could not build the engine that was asked for."""


class BundleError(FuselageError):
    """A bundle on disk is missing, damaged, incomplete or of another schema."""


class DeviceError(FuselageError):
    """The engine is sound, but this machine cannot run it."""


class FeedError(FuselageError):
    """Wrong names, dtypes, ranks or sizes were fed to an engine."""


class TextError(FuselageError):
    """A text cannot be tokenised as asked."""


class MissingPackageError(FuselageError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed here; "
            f'install it with: pip install "fuselage[{extra}]"'
        )
        self.package = package
        self.extra = extra


class ServingError(FuselageError):
    """A request was not answered for want of time or room, not for what it asks."""


class OverloadError(ServingError):
    """Too many requests wait already; the same request may be answered a moment later."""


class DeadlineError(ServingError):
    """A request's deadline passed before its answer was there."""


class DrainingError(ServingError):
    """No more requests are taken: the batcher drains or is closed."""


class VerificationError(FuselageError):
    """An engine does not answer like the model."""
