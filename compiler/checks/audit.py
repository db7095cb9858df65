"""Hold the kernels of a built TensorRT engine to what its graph promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from ...engines.base import EngineArtifact
from ...graph.model import Graph
from ...passes.qdq.params import FP8, INT8, Scheme
from ...passes.qdq.policy import Linear, QuantPlan, QuantPolicy

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_NAMED = 3
_SMALLEST_FUSED_HEAD = 16  # TensorRT-RTX 1.7 refuses fused attention for smaller heads (measured)


def lost_fusions(
    graph: Graph,
    plan: QuantPlan | None,
    artifact: EngineArtifact,
    policy: QuantPolicy | None = None,
) -> tuple[str, ...]:
    """What the engine does not have although its graph asks for it, one line each.

    Args:
        graph: the lowered graph the engine was built from.
        plan: the GEMMs and tables meant to be in 8 bits, None for a float engine.
        artifact: what was built. ONNX Runtime lists no kernels: of its engines the operators that
            multiply with int8 weights are counted.
        policy: the format of the plan; None for INT8 operands.
    """
    policy = policy or QuantPolicy()
    kernels: Mapping[str, Any] | None = artifact.facts.get("kernels")
    listed: Sequence[Mapping[str, Any]] = artifact.facts.get("kernel_list", ())
    if kernels is None:
        return _restored_weights(plan, policy, artifact.facts.get("nodes", {}))
    lines = []
    wanted = sum(_is_fusable(node) for node in graph.model.graph)
    for profile, own in enumerate(artifact.facts.get("profile_kernels") or (kernels,)):
        fused = own["fused_attention"]
        if fused < wanted:
            where = f" in profile {profile}" if profile else ""
            line = f"{fused} of {wanted} attention blocks are fused attention kernels{where}"
            lines.append("; ".join([line, *_named(artifact.facts.get("decomposed_attention", ()))]))
    if plan is not None:
        lines += [*_float_gemms(plan, policy, listed), *_float_tables(plan, listed)]
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


def _float_gemms(
    plan: QuantPlan, policy: QuantPolicy, kernels: Sequence[Mapping[str, Any]]
) -> list[str]:
    """A line for each profile in which a planned linear has no kernel of the planned form."""
    name, is_form = _FORMS[policy.weight_only, policy.scheme]
    lines = []
    for profile in sorted({kernel.get("profile", 0) for kernel in kernels} or {0}):
        own = [kernel for kernel in kernels if kernel.get("profile", 0) == profile]
        found = {node for kernel in own if is_form(kernel) for node in kernel["nodes"]}
        missing = [linear for linear in plan.linears if linear.node not in found]
        if not missing:
            continue
        where = f" in profile {profile}" if profile else ""
        edges = [_edge(linear, own) for linear in missing[:_NAMED]]
        count = f"{len(missing)} of {len(plan.linears)} {name} run in float{where}"
        lines.append(f"{count}: {'; '.join(edges)}{', ...' if len(missing) > _NAMED else ''}")
    return lines


def _edge(linear: Linear, kernels: Sequence[Mapping[str, Any]]) -> str:
    """The edge that was meant to be quantised, and what computes it instead."""
    kinds = ("gemm", "runtime_fusion")
    instead = [k for k in kernels if k["kind"] in kinds and linear.node in k["nodes"]]
    seen = f"a {instead[0]['kind']} of {instead[0]['dtypes']}" if instead else "no product"
    return f"{linear.activation!r} -> {linear.node!r} (weight {linear.weight!r}) is {seen}"


def _named(attentions: Sequence[Mapping[str, str]]) -> list[str]:
    return [f"{found['node']!r}: {found['reason']}" for found in attentions[:_NAMED]]


def _float_tables(plan: QuantPlan, kernels: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line when a planned look-up has no kernel that gathers codes."""
    found = {node for kernel in kernels if _reads_int8(kernel) for node in kernel["nodes"]}
    missing = [table.node for table in plan.tables if table.node not in found]
    if not missing:
        return []
    count = len(plan.tables)
    return [f"{len(missing)} of {count} INT8 tables are held in float, first {missing[0]!r}"]


def _restored_weights(
    plan: QuantPlan | None, policy: QuantPolicy, operators: Mapping[str, int]
) -> tuple[str, ...]:
    """A line when ONNX Runtime restores planned weights instead of multiplying with them."""
    if plan is None or not policy.weight_only:
        return ()
    planned, found = len(plan.linears), operators.get("com.microsoft::MatMulNBits", 0)
    if found >= planned:
        return ()
    return (f"{planned - found} of {planned} int8 weights are restored to float at each run",)


def _multiplies(codes: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a kernel is a GEMM of two such operands.

    A product of what was restored to float reads codes too, but is a ``runtime_fusion``.
    """

    def is_form(kernel: Mapping[str, Any]) -> bool:
        inputs, _, constants = str(kernel["dtypes"]).partition("->")[0].partition("|")
        first, *others = inputs.split(",")
        factors = (*constants.split(","), *others)
        is_product = first.startswith(codes) and any(one.startswith(codes) for one in factors)
        return kernel["kind"] == "gemm" and is_product

    return is_form


def _reads_int8(kernel: Mapping[str, Any]) -> bool:
    """Whether a constant of the kernel is int8."""
    constants = str(kernel["dtypes"]).partition("|")[2].partition("->")[0]
    return "Int8" in constants.split(",")


_FORMS: Mapping[tuple[bool, Scheme], tuple[str, Callable[[Mapping[str, Any]], bool]]] = {
    (False, INT8): ("INT8 GEMMs", _multiplies("Int8")),
    (False, FP8): ("FP8 GEMMs", _multiplies("FP8")),
    (True, INT8): ("int8 weights", _reads_int8),
}
"""By whether weights alone are quantised, and the format: a name, and what a kernel must be."""
