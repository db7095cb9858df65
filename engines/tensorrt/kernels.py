"""Read the kernels of a built engine out of the builder's log.

With ``ProfilingVerbosity.DETAILED`` the VERBOSE log ends with the text that the engine inspector
shows on a GPU: one line a kernel with its type, the data types of its operands and the ONNX nodes
it computes. It appears without a GPU too, so fusion and precision are checked where plans are
built. Source: logs of tensorrt_rtx 1.7.1.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_KERNEL = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*)\], "
    r"Constants: \[(?P<constants>.*)\], Outputs: \[(?P<outputs>.*)\], "
    r"TacticName: (?P<tactic>.*?), StreamId: \d+, Metadata: ?(?P<metadata>.*)$",
    re.MULTILINE,
)
_OPERAND = re.compile(
    r"\{ Name: .*?, Dimensions: \[(?P<dims>[-\d,]*)\], .*?Datatype: (?P<dtype>\w+)"
)
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\[\x1f]|$)")
_ACTIVATION_BYTES = re.compile(r"Total Activation Memory: (\d+) bytes")
_WEIGHT_BYTES = re.compile(r"Total Weights Memory: (\d+) bytes")

_FUSED_ATTENTION = "_gemm_mha_v2"


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel of an engine.

    Attributes:
        name: the builder's name; not stable across versions.
        kind: the builder's LayerType, such as ``gemm``, ``kgen`` or ``runtime_fusion``.
        inputs: data types of the activations, such as ``Half``.
        constants: data types of the weights; scalars such as a GEMM's alpha are left out.
        outputs: data types of the results.
        nodes: sorted names of the ONNX nodes it computes; empty for what the builder added.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def is_fused_attention(self) -> bool:
        """Whether scores, softmax and the weighted sum are this one kernel."""
        return _FUSED_ATTENTION in self.name

    @property
    def dtypes(self) -> str:
        """Operand types as ``inputs|constants->outputs``, for example ``Int8|Int8->Half``."""
        operands = ",".join(self.inputs)
        if self.constants:
            operands += "|" + ",".join(self.constants)
        return f"{operands}->{','.join(self.outputs)}"

    def facts(self) -> dict[str, Any]:
        """For ``engine.json``."""
        return {
            "name": self.name,
            "kind": self.kind,
            "dtypes": self.dtypes,
            "nodes": list(self.nodes),
        }


@dataclass(frozen=True, kw_only=True)
class EngineListing:
    """What the log says about the engine that was built.

    Attributes:
        kernels: in execution order; empty when the log lists none.
        activation_bytes: device memory one execution context needs; None when the log is silent.
        weight_bytes: device memory of the weights; None when the log is silent.
    """

    kernels: tuple[Kernel, ...]
    activation_bytes: int | None
    weight_bytes: int | None

    def summary(self) -> dict[str, Any]:
        """Counts for ``engine.json`` and the report.

        Returns:
            ``total``, ``fused_attention``, ``gemm``, ``int8_gemm``, ``runtime_fusion`` (a GEMM
            with its epilogue), ``gemm_dtypes`` and ``kinds``, most frequent first.
        """
        gemms = [kernel for kernel in self.kernels if kernel.kind == "gemm"]
        kinds = Counter(kernel.kind for kernel in self.kernels)
        return {
            "total": len(self.kernels),
            "fused_attention": sum(kernel.is_fused_attention for kernel in self.kernels),
            "gemm": len(gemms),
            "int8_gemm": sum(_multiplies_int8(kernel) for kernel in gemms),
            "runtime_fusion": kinds["runtime_fusion"],
            "gemm_dtypes": dict(Counter(kernel.dtypes for kernel in gemms).most_common()),
            "kinds": dict(kinds.most_common()),
        }


def read_listing(texts: Iterable[str]) -> EngineListing:
    """Read the messages of a build.

    Args:
        texts: messages of the build alone, oldest first.
    """
    kernels: list[Kernel] = []
    activation_bytes: int | None = None
    weight_bytes: int | None = None
    for text in texts:
        kernels += (_kernel(match) for match in _KERNEL.finditer(text))
        if found := _ACTIVATION_BYTES.search(text):
            activation_bytes = int(found[1])
        if found := _WEIGHT_BYTES.search(text):
            weight_bytes = int(found[1])
    return EngineListing(
        kernels=tuple(kernels), activation_bytes=activation_bytes, weight_bytes=weight_bytes
    )


def _kernel(match: re.Match[str]) -> Kernel:
    return Kernel(
        name=match["name"],
        kind=match["kind"],
        inputs=_dtypes(match["inputs"]),
        constants=_dtypes(match["constants"], scalars=False),
        outputs=_dtypes(match["outputs"]),
        nodes=tuple(sorted(_NODE.findall(match["metadata"]))),
    )


def _dtypes(operands: str, *, scalars: bool = True) -> tuple[str, ...]:
    return tuple(
        found["dtype"]
        for found in _OPERAND.finditer(operands)
        if scalars or _elements(found["dims"]) != 1
    )


def _elements(dims: str) -> int:
    return math.prod(int(size) for size in dims.split(",") if size)


def _multiplies_int8(kernel: Kernel) -> bool:
    factors = kernel.inputs + kernel.constants
    return len(factors) > 1 and set(factors[:2]) == {"Int8"}
