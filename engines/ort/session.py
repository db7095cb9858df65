"""ONNX Runtime sessions: options, opening, and its exceptions turned into one clear sentence."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from ...errors import DeviceError, MissingPackageError
from ...graph.tensors import Dim, TensorSpec
from .. import host

# SkipLayerNormalization costs 0.21 ms a node where LayerNormalization and Add cost 0.026 + 0.012
# (CPU, hidden 384, batch 1, sequence 128, ONNX Runtime 1.31), so the fusion makes BERT slower.
DISABLED_OPTIMIZERS = ("SkipLayerNormFusion",)

_SEVERITY_FATAL = 4
_MOST_THREADS = 1024  # ONNX Runtime takes any number; 9,999 hang when the session is closed
_DTYPES = {"float": "float32", "double": "float64"}


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An execution provider and what a machine needs for it.

    Attributes:
        name: ONNX Runtime's name.
        extra: extra of fuselage that installs it.
        options: provider options.
        needs_gpu: whether an NVIDIA GPU must answer.
    """

    name: str
    extra: str
    options: Mapping[str, str] = field(default_factory=dict)
    needs_gpu: bool = False

    def blocker(self) -> str | None:
        """None when sessions open here, else what is missing and what to do."""
        install = f'pip install "fuselage[{self.extra}]"'
        if importlib.util.find_spec("onnxruntime") is None:
            return f"the package onnxruntime is not installed here; install it with: {install}"
        if not self.needs_gpu:
            return None
        offered = _onnxruntime().get_available_providers()
        if self.name not in offered:
            return (
                f"the installed onnxruntime has no {self.name}, only {', '.join(offered)}; "
                f"replace it with: pip uninstall onnxruntime && {install}"
            )
        if not host.gpus():
            return (
                f"no NVIDIA GPU answers (kernel driver: {host.nvidia_driver() or 'none'}); "
                "install the driver, or give the container access to a GPU"
            )
        return None


def runtime_version() -> str:
    """Version of the onnxruntime that sessions use; the package may be one of several wheels."""
    return str(_onnxruntime().__version__)


def session_options(threads: int) -> Any:
    """Options shared by every session: sequential, no spinning, and errors raised, not logged.

    Spinning threads burn the cores that others need: on two shared cores MiniLM made 29 sequences
    a second with spinning and 125 without (batch 1, ONNX Runtime 1.31).

    Args:
        threads: intra-op threads; 0 means the physical cores allowed to this process.

    Raises:
        DeviceError: when there are fewer than 0 threads or more than any machine has use for.
    """
    if not 0 <= threads <= _MOST_THREADS:
        raise DeviceError(
            f"threads: expected 0 (all physical cores) to {_MOST_THREADS}, got {threads}"
        )
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or host.physical_cores()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _SEVERITY_FATAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(model: str, options: Any, provider: Provider, *, optimize: bool) -> Any:
    """Open a session that runs on ``provider`` or not at all.

    Args:
        model: path of an ONNX file.
        options: from `session_options`; the optimisation level is set here.
        provider: where to run; the CPU provider takes the nodes it does not implement.
        optimize: False for a graph that ONNX Runtime optimised before.

    Raises:
        DeviceError: when the provider does not start; ONNX Runtime alone would warn and use the
            CPU.
    """
    ort = _onnxruntime()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    providers = [(provider.name, dict(provider.options))]
    if provider.name != "CPUExecutionProvider":
        providers.append(("CPUExecutionProvider", {}))

    def open_once() -> Any:
        return ort.InferenceSession(
            model,
            options,
            providers=providers,
            disabled_optimizers=list(DISABLED_OPTIMIZERS) if optimize else None,
            enable_fallback=0,  # it prints, and opens the model again as before
        )

    session = open_once()
    said = ""
    if provider.name not in session.get_providers():
        # CUDA from Python packages is where no loader looks, until it was loaded from there.
        said = _load_cuda(ort)
        session = open_once()
    if provider.name not in session.get_providers():
        raise DeviceError(
            f"{provider.name} did not start, ONNX Runtime offers {session.get_providers()} "
            f"instead; check the CUDA and cuDNN libraries it needs{said}"
        )
    return session


def _load_cuda(ort: ModuleType) -> str:
    """Load the CUDA that is installed as Python packages; what is missing, to end a sentence."""
    if not hasattr(ort, "preload_dlls"):
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        ort.preload_dlls()
    lines = [line for line in printed.getvalue().splitlines() if "ailed" in line]
    return f" ({'; '.join(lines)})" if lines else ""


def message(error: Exception) -> str:
    """ONNX Runtime's own words, without its prefix and line breaks."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip())
    return " ".join(text.split()) or type(error).__name__


def specs(arguments: Any) -> tuple[TensorSpec, ...]:
    """TensorSpecs of what ``session.get_inputs()`` or ``get_outputs()`` returns."""
    return tuple(_spec(argument) for argument in arguments)


def dtype_name(kind: str) -> str:
    """Numpy's name of ONNX Runtime's ``tensor(float)`` and the like."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(name, name)


def _spec(argument: Any) -> TensorSpec:
    dims: list[Dim] = [
        size if isinstance(size, int | str) and size != "" else f"{argument.name}_{axis}"
        for axis, size in enumerate(argument.shape)
    ]
    return TensorSpec(argument.name, dtype_name(argument.type), tuple(dims))


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("onnxruntime", "cpu", "running on ONNX Runtime") from error
    runtime: ModuleType = onnxruntime
    return runtime
