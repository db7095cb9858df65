"""Hold the kernels of a built TensorRT engine to what its graph promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from ..engines.base import EngineArtifact
from ..graph.model import Graph
from ..passes.qdq.policy import QuantPlan

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_SMALLEST_FUSED_HEAD = 16  # TensorRT-RTX 1.7 refuses fused attention for smaller heads (measured)


def lost_fusions(graph: Graph, plan: QuantPlan | None, artifact: EngineArtifact) -> tuple[str, ...]:
    """What the engine does not have although its graph asks for it, one line each.

    Args:
        graph: the lowered graph the engine was built from.
        plan: the GEMMs meant to run in INT8, None for a float engine.
        artifact: of a TensorRT target; others list no kernels and lose nothing.
    """
    kernels: Mapping[str, Any] | None = artifact.facts.get("kernels")
    listed: Sequence[Mapping[str, Any]] = artifact.facts.get("kernel_list", ())
    if kernels is None:
        return ()
    lines = []
    wanted = sum(_is_fusable(node) for node in graph.model.graph)
    fused = kernels["fused_attention"]
    if fused < wanted:
        lines.append(f"{fused} of {wanted} attention blocks are fused attention kernels")
    lines += _float_gemms(plan, listed)
    return tuple(lines)


def _is_fusable(node: ir.Node) -> bool:
    if node.op_type != "Attention" or node.domain or not node.inputs or node.inputs[0] is None:
        return False
    query = node.inputs[0]
    width = None if query.shape is None else query.shape[-1]
    heads = node.attributes.get("q_num_heads")
    if isinstance(width, int) and heads is not None:
        width //= heads.as_int()
    large = not isinstance(width, int) or width >= _SMALLEST_FUSED_HEAD
    return query.dtype in _HALF and large


def _float_gemms(plan: QuantPlan | None, kernels: Sequence[Mapping[str, Any]]) -> list[str]:
    if plan is None:
        return []
    quantized = {
        node
        for kernel in kernels
        if kernel["kind"] == "gemm" and str(kernel["dtypes"]).startswith("Int8")
        for node in kernel["nodes"]
    }
    missing = [linear.node for linear in plan.linears if linear.node not in quantized]
    if not missing:
        return []
    return [f"{len(missing)} of {len(plan.linears)} INT8 GEMMs run in float, first {missing[0]!r}"]
