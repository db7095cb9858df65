"""Which precision each target gets, and what is said when that is not the one asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import BuildError

if TYPE_CHECKING:
    # A build with nothing to do assigns precisions too, without onnx.
    from ..passes.presets import Precision

Asked = Literal["auto", "fp32", "fp16", "bf16", "int8"]
ASKED: tuple[Asked, ...] = ("auto", "fp32", "fp16", "bf16", "int8")


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
    "bf16": "ONNX Runtime lacks bfloat16 kernels for part of the operators",
}
_TENSORRT = _Fast("fp16", ("fp32", "bf16", "int8"), {})
_FAST: Mapping[str, _Fast] = {
    "ort-cpu": _Fast("fp32", ("int8",), {"fp16": _NO_16_BIT, "bf16": _NO_16_BIT}),
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
