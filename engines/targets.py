"""Every target fuselage knows, best first, and the backend behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import BuildError
from .base import EngineBackend


def _tensorrt() -> EngineBackend:
    from .tensorrt.backend import TensorRtBackend

    return TensorRtBackend.of("tensorrt")


def _tensorrt_rtx() -> EngineBackend:
    from .tensorrt.backend import TensorRtBackend

    return TensorRtBackend.of("tensorrt-rtx")


def _ort_cuda() -> EngineBackend:
    from .ort.backend import OrtBackend

    return OrtBackend("ort-cuda")


def _ort_cpu() -> EngineBackend:
    from .ort.backend import OrtBackend

    return OrtBackend("ort-cpu")


TARGETS: Mapping[str, Callable[[], EngineBackend]] = {
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
    "ort-cuda": _ort_cuda,
    "ort-cpu": _ort_cpu,
}
"""Target -> factory of its backend, in the order in which a bundle prefers them. A factory imports
no package that is not always there; `build_blocker` and `run_blocker` say what is missing."""


def backend(target: str) -> EngineBackend:
    """The backend of a target.

    Raises:
        BuildError: listing the targets, when it is none of them.
    """
    if target not in TARGETS:
        raise BuildError(f"target {target!r}: expected one of {', '.join(TARGETS)}")
    return TARGETS[target]()


def default_targets() -> tuple[str, ...]:
    """What a build makes when nobody says: all that build on this machine, and always ``ort-cpu``.

    ``ort-cpu`` is in even where it is blocked, so that the build names the missing package
    instead of leaving the embedded default out.
    """
    return tuple(
        name for name in TARGETS if name == "ort-cpu" or backend(name).build_blocker() is None
    )
