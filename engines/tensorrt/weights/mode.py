"""What a plan lets happen to its weights, and what the builder is asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ....errors import BuildError
from ...base import BuildConfig
from ..cuda import Cuda
from ..flavour import Flavour

Refit = Literal["any", "identical"]


@dataclass(frozen=True, kw_only=True)
class WeightMode:
    """How a plan holds its weights.

    Attributes:
        refit: ``any`` weights may take their place, or only ``identical`` ones, which come back
            into a plan that was stripped of them; None when they are fixed.
        stripped: whether the plan was written without them.
        streamed: whether a part of them may stay in host memory.
    """

    refit: Refit | None = None
    stripped: bool = False
    streamed: bool = False

    @classmethod
    def asked(
        cls, *, refittable: bool = False, stripped: bool = False, streamed: bool = False
    ) -> WeightMode:
        """What options ask for; a stripped plan must at least take its own weights back."""
        refit: Refit | None = "identical" if stripped else None
        return cls(refit="any" if refittable else refit, stripped=stripped, streamed=streamed)

    @classmethod
    def of(cls, config: BuildConfig) -> WeightMode:
        """What a build asks for."""
        return cls.asked(
            refittable=config.refittable,
            stripped=config.stripped,
            streamed=config.weight_streaming,
        )

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> WeightMode:
        """Read the content of ``engine.json`` back; plans of before have fixed weights.

        Raises:
            ValueError: when it has another form.
        """
        refit, flags = (
            entry.get("refit"),
            (entry.get("stripped", False), entry.get("streamed", False)),
        )
        if refit not in (None, "any", "identical") or not all(isinstance(f, bool) for f in flags):
            raise ValueError(f"weights: expected refit, stripped and streamed, got {entry!r:.80}")
        if flags[0] and refit is None:
            raise ValueError("weights: a stripped plan that takes no weights")
        return cls(refit=refit, stripped=flags[0], streamed=flags[1])

    def facts(self) -> dict[str, Any]:
        """For ``engine.json``."""
        return dict(vars(self))


def refuse_mode(flavour: Flavour, mode: WeightMode, targets: tuple[str, ...]) -> None:
    """Refuse what the flavour cannot build on this machine, before it is tried.

    TensorRT-RTX 1.7.1 compiles ahead of time as long as weights are constants. When they may
    change, its compiler asks the CUDA driver (``graph_jit.cpp: CHECK(status == CUDA_SUCCESS)``)
    and takes one compute capability (``CHECK(sm_vers_.size() == 1)``); both with 1.7.1.

    Raises:
        BuildError: with the reason and what to do.
    """
    if mode.refit is None or not flavour.builds_without_gpu:
        return
    option = "--strip-plan" if mode.stripped else "--refittable"
    if len(targets) != 1:
        raise BuildError(
            f"{flavour.target} {option}: expected one compute capability, got "
            f"{', '.join(targets) or 'none'}; {flavour.distribution} compiles a plan that takes "
            f"weights for one alone, name it with --compute-capability, or leave {option} out"
        )
    if blocker := Cuda.blocker():
        raise BuildError(
            f"{flavour.target} {option}: {flavour.distribution} needs the CUDA driver to compile a "
            f"plan that takes weights, and {blocker}; build it on a machine with a GPU, or leave "
            f"{option} out, which needs none"
        )


def set_flags(trt: Any, builder_config: Any, mode: WeightMode) -> None:
    """Tell the builder.

    Without a mode of refit TensorRT would take a stripped plan as one for identical weights; it is
    said all the same, so that the plan does not depend on that default.
    """
    if mode.refit == "any":
        builder_config.set_flag(trt.BuilderFlag.REFIT)
    if mode.refit == "identical":
        builder_config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    if mode.stripped:
        builder_config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    if mode.streamed:
        builder_config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
