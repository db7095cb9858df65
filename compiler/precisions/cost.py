"""How long an engine would take on a GPU, from its list of kernels: a roofline, not a measurement.

Each kernel takes the longer of its arithmetic and its traffic, and a launch:

    seconds = max(operations / rate of its operands' type, bytes / bandwidth) + 2.5 us

A product of [M, K] with [K, N] has 2 M K N operations and moves its operands and its result; a
fused attention has 4 M S H operations for S tokens a text and H channels; every other kernel reads
and writes H channels a token in the types it is listed with. Nothing else is modelled: no caches,
no tile that is not filled, no overlap. It ranks engines of one graph; it is no prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...graph.model import Graph
from ...passes.qdq.policy import Linear, QuantPolicy

_LAUNCH = 2.5e-6
_PRODUCTS = ("gemm", "runtime_fusion")
_BYTES = {"Float": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "FP8": 1, "Int32": 4, "Int64": 8}


@dataclass(frozen=True, kw_only=True)
class GpuRates:
    """Dense peak rates of a GPU, without sparsity, with sums in 32 bits.

    Attributes:
        name: of the GPU.
        half: operations a second with 16-bit operands.
        int8: with INT8 operands.
        fp8: with FP8 operands; that of `half` where it has no FP8.
        single: with 32-bit operands: engines keep them whole, without TF32.
        bandwidth: bytes a second.
    """

    name: str
    half: float
    int8: float
    fp8: float
    single: float
    bandwidth: float

    def of(self, operand: str) -> float:
        """The rate for operands of a type as the builder names it."""
        if operand.startswith("FP8"):
            return self.fp8
        return {"Int8": self.int8, "Float": self.single}.get(operand, self.half)


RATES: Mapping[str, GpuRates] = {
    # NVIDIA T4 Tensor Core GPU, data sheet.
    "SM75": GpuRates(name="T4", half=65e12, int8=130e12, fp8=65e12, single=8.1e12, bandwidth=320e9),
    # NVIDIA A100 Tensor Core GPU, data sheet, column A100 80GB SXM.
    "SM80": GpuRates(
        name="A100", half=312e12, int8=624e12, fp8=312e12, single=19.5e12, bandwidth=2039e9
    ),
    # NVIDIA A10 Tensor Core GPU, data sheet.
    "SM86": GpuRates(
        name="A10", half=125e12, int8=250e12, fp8=125e12, single=31.2e12, bandwidth=600e9
    ),
    # NVIDIA L4 Tensor Core GPU, data sheet, which gives rates with sparsity: half of them.
    "SM89": GpuRates(
        name="L4", half=121e12, int8=242e12, fp8=242e12, single=30.3e12, bandwidth=300e9
    ),
    # NVIDIA H100 Tensor Core GPU, data sheet, column H100 SXM, with sparsity: half of them.
    "SM90": GpuRates(
        name="H100", half=989e12, int8=1979e12, fp8=1979e12, single=67e12, bandwidth=3350e9
    ),
    # NVIDIA RTX Blackwell GPU Architecture, white paper: GeForce RTX 5090, 32-bit accumulate.
    "SM120": GpuRates(
        name="RTX 5090", half=209.5e12, int8=838e12, fp8=419e12, single=104.8e12, bandwidth=1792e9
    ),
}
"""One GPU for each compute capability; others of it are faster or slower alike."""


@dataclass(frozen=True)
class Workload:
    """What the kernels of a graph work on.

    Attributes:
        linears: node -> product with a constant weight.
        width: channels of a token between the linears.
    """

    linears: Mapping[str, Linear]
    width: int

    @classmethod
    def of(cls, graphs: Iterable[Graph]) -> Workload:
        """Of a graph in its spellings, whose linears together have all names that kernels use."""
        plans = [QuantPolicy(min_size=1).plan(graph.model) for graph in graphs]
        linears = {linear.node: linear for plan in plans for linear in plan.linears}
        depths = [linear.depth for linear in linears.values()]
        return cls(linears, max(set(depths), key=lambda d: (depths.count(d), -d), default=1))


def modelled_ms(
    kernels: Sequence[Mapping[str, Any]], work: Workload, gpu: GpuRates, batch: int, sequence: int
) -> float:
    """Milliseconds of one call.

    Args:
        kernels: of one profile, as ``engine.json`` lists them.
        work: what they compute.
        gpu: where.
        batch: texts.
        sequence: tokens of each.
    """
    seconds = sum(_seconds(kernel, work, gpu, batch * sequence, sequence) for kernel in kernels)
    return seconds * 1e3


def _seconds(
    kernel: Mapping[str, Any], work: Workload, gpu: GpuRates, tokens: int, sequence: int
) -> float:
    inputs, constants, outputs = _operands(str(kernel["dtypes"]))
    found = [work.linears[node] for node in kernel["nodes"] if node in work.linears]
    operand = next(iter(inputs), "Half")
    if kernel["kind"] in _PRODUCTS and found:
        channels = sum(linear.channels for linear in found)
        depth = found[0].depth
        weight = next((name for name in constants if name in ("Int8", "FP8")), operand)
        operations = 2 * tokens * depth * channels
        moved = tokens * depth * _size(operand) + depth * channels * _size(weight)
        moved += tokens * channels * _size(outputs[0])
    else:
        is_attention = "_mha_v" in kernel["name"]
        operations = 4 * tokens * sequence * work.width if is_attention else 0
        moved = tokens * work.width * sum(map(_size, (*inputs, *outputs)))
    return max(operations / gpu.of(operand), moved / gpu.bandwidth) + _LAUNCH


def _operands(dtypes: str) -> tuple[list[str], list[str], list[str]]:
    """``Int8,Half|Int8->Half`` as inputs, constants and outputs."""
    left, _, outputs = dtypes.partition("->")
    inputs, _, constants = left.partition("|")
    return _names(inputs), _names(constants), _names(outputs) or ["Half"]


def _names(listed: str) -> list[str]:
    return [name for name in listed.split(",") if name]


def _size(name: str) -> int:
    return 1 if name.startswith("FP8") else _BYTES.get(name, 2)
