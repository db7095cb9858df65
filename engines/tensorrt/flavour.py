"""The two TensorRT packages behind one code path; what differs is asked of the module, by name.

Source: the bindings of tensorrt 10.16.1 and 11.4.0 and tensorrt_rtx 1.7.1, compared name by name.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

from ...errors import BuildError, DeviceError, MissingPackageError

_NOT_A_GPU = frozenset({"NONE", "CURRENT"})

_DEFAULT_COMPUTE_CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")
"""Ampere to Blackwell in one plan; a further target costs a few bytes, SM75 lacks FP32 and bf16."""


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """One package that builds and runs TensorRT plans.

    Attributes:
        target: the target its engines belong to.
        package: name of the module.
        distribution: what to install.
        extra: the extra of fuselage that installs it.
        minimum: oldest version whose parser maps Attention and RotaryEmbedding to native layers.
        builds_without_gpu: whether plans are compiled ahead of time.
    """

    target: str
    package: str
    distribution: str
    extra: str
    minimum: tuple[int, int]
    builds_without_gpu: bool

    def module(self) -> Any:
        """Import the package and check its version.

        Raises:
            MissingPackageError: when it is not installed.
            DeviceError: when it is installed but its libraries do not load, or it is too old.
        """
        try:
            trt: ModuleType = importlib.import_module(self.package)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != self.package:
                raise self._broken(error) from error
            raise MissingPackageError(
                self.distribution, self.extra, f"the target {self.target}"
            ) from error
        except (ImportError, OSError) as error:
            raise self._broken(error) from error
        self._check_version(str(trt.__version__))
        return trt

    def version(self) -> str:
        """Version of the installed package, for example ``1.7.1.116``."""
        return str(self.module().__version__)

    def installed(self) -> str | None:
        """Version of the installed package, None without it; nothing is imported."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def blocker(self) -> str | None:
        """None when the package is there and new enough, else what is missing and what to do.

        Looks at what is installed and imports nothing: asking which targets there are must not
        load 234 MB of libraries. Libraries that do not load are found by `module`.
        """
        version = self.installed()
        if version is None:
            missing = MissingPackageError(
                self.distribution, self.extra, f"the target {self.target}"
            )
            return str(missing)
        try:
            self._check_version(version)
        except DeviceError as error:
            return str(error)
        return None

    def _broken(self, error: Exception) -> DeviceError:
        return DeviceError(
            f"the package {self.package!r} is installed, but its libraries do not load "
            f'({error}); reinstall it with: pip install --force-reinstall "fuselage[{self.extra}]"'
        )

    def _check_version(self, version: str) -> None:
        found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if found < self.minimum:
            wanted = ".".join(map(str, self.minimum))
            raise DeviceError(
                f"the target {self.target} needs {self.distribution} {wanted} or newer, "
                f'found {version}; update it with: pip install -U "fuselage[{self.extra}]"'
            )


TENSORRT = Flavour(
    target="tensorrt",
    package="tensorrt",
    distribution="tensorrt",
    extra="tensorrt",
    minimum=(10, 15),
    builds_without_gpu=False,
)
TENSORRT_RTX = Flavour(
    target="tensorrt-rtx",
    package="tensorrt_rtx",
    distribution="tensorrt-rtx",
    extra="rtx",
    minimum=(1, 7),
    builds_without_gpu=True,
)
FLAVOURS = {flavour.target: flavour for flavour in (TENSORRT, TENSORRT_RTX)}


def targetable(trt: Any) -> tuple[str, ...]:
    """Compute capabilities a plan can be compiled for ahead of time; empty: the local GPU only."""
    if not hasattr(trt, "ComputeCapability"):
        return ()
    return tuple(name for name in trt.ComputeCapability.__members__ if name not in _NOT_A_GPU)


def choose_compute_capabilities(
    flavour: Flavour, trt: Any, asked: tuple[str, ...]
) -> tuple[str, ...]:
    """The compute capabilities to compile for, in the order given and without repeats.

    Args:
        flavour: names the target in errors.
        trt: the flavour's module.
        asked: names such as ``SM89``; empty means the default.

    Returns:
        Valid names; empty when the flavour compiles for the local GPU only.

    Raises:
        BuildError: on a name the package does not know, with all the names it does.
    """
    valid = targetable(trt)
    if not valid and asked:
        raise BuildError(
            f"{flavour.target}: expected no compute capabilities, got {', '.join(asked)}; "
            f"{flavour.distribution} builds for the GPU of this machine alone, leave them out "
            "or build the target tensorrt-rtx"
        )
    unknown = [name for name in asked if name not in valid]
    if unknown:
        raise BuildError(
            f"{flavour.target}: compute capability {unknown[0]!r} is not one of "
            f"{', '.join(valid)}, the ones {flavour.distribution} {trt.__version__} compiles for; "
            "choose among these"
        )
    default = tuple(name for name in _DEFAULT_COMPUTE_CAPABILITIES if name in valid)
    return tuple(dict.fromkeys(asked or default))


def network_flags(trt: Any) -> int:
    """Bit set for ``Builder.create_network``: types are read from the graph, never chosen.

    TensorRT 10 needs the flag, later versions ignore it.
    """
    names = trt.NetworkDefinitionCreationFlag.__members__
    return 1 << int(names["STRONGLY_TYPED"]) if "STRONGLY_TYPED" in names else 0
