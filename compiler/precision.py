"""Which precision each target gets, and what is said when that is not the one asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from ..errors import BuildError

if TYPE_CHECKING:
    # A build with nothing to do assigns precisions too, without onnx.
    from ..passes.presets import Precision

Asked = Literal["auto", "fp32", "fp16", "bf16", "int8", "int8-weight-only", "fp8"]
ASKED: tuple[Asked, ...] = get_args(Asked)

CALIBRATED: tuple[Precision, ...] = ("int8", "fp8")
"""Activations have ranges, which come from text."""

QUANTIZED: tuple[Precision, ...] = (*CALIBRATED, "int8-weight-only")
"""The graph carries Q/DQ."""

INTEGER: tuple[Precision, ...] = ("int8", "int8-weight-only")
"""Embedding tables may be quantised as well."""

_FIRST_FP8 = 89
_FP8_GPUS = ("SM89", "SM120")
"""Default compute capabilities of ahead-of-time FP8 plans."""


@dataclass(frozen=True)
class _Fast:
    """What a target computes fast.

    Attributes:
        natural: taken by ``auto`` and in place of what the target cannot do fast.
        others: further precisions worth asking for.
        why_not: for each missing precision, the reason.
    """

    natural: Precision
    others: tuple[Precision, ...]
    why_not: Mapping[str, str]


_NO_16_BIT = "x86 CPUs emulate 16-bit floats, which is slower than fp32"
_CUDA = {
    "int8": "the CUDA execution provider has no fast INT8",
    "int8-weight-only": "its products with int8 weights were not measured",
    "fp8": "the CUDA execution provider has no FP8 products",
    "bf16": "ONNX Runtime lacks bfloat16 kernels for part of the operators",
}
_NO_FP8 = "CPUs have no FP8 arithmetic"
_TENSORRT = _Fast("fp16", ("fp32", "bf16", "int8", "int8-weight-only", "fp8"), {})
_FAST: Mapping[str, _Fast] = {
    "ort-cpu": _Fast(
        "fp32",
        ("int8", "int8-weight-only"),
        {"fp16": _NO_16_BIT, "bf16": _NO_16_BIT, "fp8": _NO_FP8},
    ),
    "ort-cuda": _Fast("fp16", ("fp32",), _CUDA),
    "tensorrt": _TENSORRT,
    "tensorrt-rtx": _TENSORRT,
}


@dataclass(frozen=True)
class Assignment:
    """Precision of every target, and a line for each that differs from what was asked.

    Attributes:
        precisions: target -> precision.
        notes: for the report, empty when every target got what was asked.
    """

    precisions: Mapping[str, Precision]
    notes: tuple[str, ...]

    def any_of(self, wanted: tuple[Precision, ...]) -> Precision | None:
        """The first of these that a target has, None when none has any."""
        return next((p for p in self.precisions.values() if p in wanted), None)


def assign(targets: tuple[str, ...], asked: str) -> Assignment:
    """Give every target a precision.

    ``auto`` is each target's fastest float precision. A precision that the only target cannot do
    fast is an error; among several targets it is a line in the report.

    Args:
        targets: names of known targets.
        asked: one of `ASKED`.

    Raises:
        BuildError: on an unknown precision, or one the only target cannot do fast.
    """
    if asked not in ASKED:
        raise BuildError(f"precision {asked!r}: expected one of {', '.join(ASKED)}")
    precisions: dict[str, Precision] = {}
    notes = []
    for target in targets:
        fast = _FAST[target]
        wanted = next((p for p in (fast.natural, *fast.others) if p == asked), None)
        precisions[target] = wanted or fast.natural
        if wanted is not None or asked == "auto":
            continue
        reason = f"{target} cannot do {asked} fast: {fast.why_not[asked]}"
        if len(targets) == 1:
            choices = " or ".join((fast.natural, *fast.others))
            raise BuildError(f"precision {asked!r}: {reason}; ask for {choices}")
        notes.append(f"{reason}; it is built in {fast.natural} instead")
    return Assignment(precisions, tuple(notes))


def gpus_for(target: str, precision: Precision, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The compute capabilities to compile an engine for; empty for the target's default.

    Args:
        target: name.
        precision: of the engine.
        asked: names such as ``SM89``; empty when the user left them out.

    Raises:
        BuildError: on one that has no FP8, for FP8.
    """
    if precision != "fp8" or target not in ("tensorrt", "tensorrt-rtx"):
        return asked
    lacking = [name for name in asked if _number(name) < _FIRST_FP8]
    if lacking:
        raise BuildError(
            f"precision 'fp8': {', '.join(lacking)} has no FP8, which came with SM{_FIRST_FP8}; "
            "leave it out, or ask for int8"
        )
    return asked or (_FP8_GPUS if target == "tensorrt-rtx" else ())


def _number(name: str) -> int:
    """89 for ``SM89``; names of another form are left to the backend to refuse."""
    digits = name.removeprefix("SM")
    return int(digits) if digits.isdecimal() else _FIRST_FP8
