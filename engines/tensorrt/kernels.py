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
from dataclasses import dataclass, replace
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

_FUSED_ATTENTION = re.compile(r"_gem[mv]_mha_v\d+")
"""``_gemm_mha_v2``, and ``_gemv_mha_v1`` where a profile has one query a row."""
_PROFILE = re.compile(r"\[profile (\d+)\]")
_MODULE = re.compile(r"_myl(\d+)_\d+$")


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
        profile: index of the optimisation profile it runs in.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]
    profile: int = 0

    @property
    def is_fused_attention(self) -> bool:
        """Whether scores, softmax and the weighted sum are this one kernel."""
        return _FUSED_ATTENTION.search(self.name) is not None

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
            "profile": self.profile,
        }


@dataclass(frozen=True, kw_only=True)
class EngineListing:
    """What the log says about the engine that was built.

    Attributes:
        kernels: in execution order; empty when the log lists none.
        activation_bytes: device memory that one execution context needs for the neediest profile;
            None when the log is silent.
        weight_bytes: device memory of the weights; None when the log is silent.
    """

    kernels: tuple[Kernel, ...]
    activation_bytes: int | None
    weight_bytes: int | None

    def of_profile(self, profile: int) -> EngineListing:
        """What runs in one optimisation profile."""
        kernels = tuple(kernel for kernel in self.kernels if kernel.profile == profile)
        return replace(self, kernels=kernels)

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
    matches: list[re.Match[str]] = []
    activation_bytes: int | None = None
    weight_bytes: int | None = None
    for text in texts:
        matches += _KERNEL.finditer(text)
        sizes = [int(size) for size in _ACTIVATION_BYTES.findall(text)]  # one line a profile
        if sizes:
            activation_bytes = max(*sizes, activation_bytes or 0)
        if found := _WEIGHT_BYTES.search(text):
            weight_bytes = int(found[1])
    kernels = map(_kernel, matches, _profiles(matches))
    return EngineListing(
        kernels=tuple(kernels), activation_bytes=activation_bytes, weight_bytes=weight_bytes
    )


def _profiles(matches: list[re.Match[str]]) -> list[int]:
    """The profile of each kernel: some of a module name it, and a module serves one profile."""
    modules = [found[1] if (found := _MODULE.search(match["name"])) else "" for match in matches]
    profiles = [max(map(int, _PROFILE.findall(match[0])), default=0) for match in matches]
    highest: dict[str, int] = {}
    for module, profile in zip(modules, profiles, strict=True):
        highest[module] = max(profile, highest.get(module, 0))
    return [
        highest[module] if module else profile
        for module, profile in zip(modules, profiles, strict=True)
    ]


def _kernel(match: re.Match[str], profile: int) -> Kernel:
    return Kernel(
        name=match["name"],
        kind=match["kind"],
        inputs=_dtypes(match["inputs"]),
        constants=_dtypes(match["constants"], scalars=False),
        outputs=_dtypes(match["outputs"]),
        nodes=tuple(sorted(_NODE.findall(match["metadata"]))),
        profile=profile,
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
