"""Optional packages: asked for once, before the work starts, and named with their extra."""

from __future__ import annotations

import importlib

from ..errors import MissingPackageError

EXPORTING = ("torch", "transformers", "safetensors", "onnx", "onnx_ir", "onnxscript", "onnxruntime")
REWRITING = ("onnx", "onnx_ir", "onnxruntime")


def require(packages: tuple[str, ...], purpose: str) -> None:
    """Import packages of the extra ``compile``.

    Raises:
        MissingPackageError: naming the first that is not installed.
    """
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MissingPackageError(name.replace("_", "-"), "compile", purpose) from error
