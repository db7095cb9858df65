"""fuselage turns a Hugging Face transformer into a verified engine bundle.

    import fuselage

    bundle = fuselage.build("minilm", out="build/minilm")      # export, rewrite, compile, prove
    with fuselage.load("build/minilm") as engine:              # the best target for this machine
        outputs = engine.run({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    embed = fuselage.pipeline("build/minilm")
    vectors = embed(["two texts", "in, vectors [2, 384] out"])

Importing fuselage imports neither torch nor any engine; a verb imports what it needs when called.
"""

from __future__ import annotations

from .compiler.api import build
from .engines.api import load, pipeline
from .errors import (
    BuildError,
    BundleError,
    CalibrationError,
    DeadlineError,
    DeviceError,
    DrainingError,
    ExportError,
    FeedError,
    FuselageError,
    GraphError,
    MissingPackageError,
    OpsetError,
    OverloadError,
    PassError,
    ServingError,
    SourceError,
    TextError,
    VerificationError,
)
from .proof.accuracy.api import evaluate
from .proof.comparing.api import compare
from .proof.reporting.api import report
from .proof.timing.api import bench

__all__ = [
    "BuildError",
    "BundleError",
    "CalibrationError",
    "DeadlineError",
    "DeviceError",
    "DrainingError",
    "ExportError",
    "FeedError",
    "FuselageError",
    "GraphError",
    "MissingPackageError",
    "OpsetError",
    "OverloadError",
    "PassError",
    "ServingError",
    "SourceError",
    "TextError",
    "VerificationError",
    "__version__",
    "bench",
    "build",
    "compare",
    "evaluate",
    "load",
    "pipeline",
    "report",
]

__version__ = "0.1.0"
