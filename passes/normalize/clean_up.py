"""The hygiene passes of onnx_ir as one step. Upstream does them well; nothing is rewritten here."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common

from ...graph.history import Refusal
from ..base import Pass, PassResult

_COMMUTATIVE = frozenset({"Add", "Mul"})


@dataclass(frozen=True)
class CleanUp(Pass):
    """Inline functions, drop identities and dead nodes, share equal subexpressions and constants.

    Also puts the constant operand of Add and Mul on the right, which halves the patterns every
    rule needs. Reports the number of nodes removed as rewrites.
    """

    name = "clean-up"

    def call(self, model: ir.Model) -> PassResult:
        """Run the upstream passes in the order in which each feeds the next."""
        before = len(model.graph)
        modified = sum(_lone_concat_to_identity(node) for node in model.graph) > 0
        kept = uninlinable(model)
        if kept is None:
            modified |= common.InlinePass()(model).modified
        modified |= _run(model, _lifting(model))
        # Before sharing: c * x and x * c are one expression.
        moved = sum(_constant_right(node) for node in model.graph)
        modified |= _run(model, _sharing())
        return PassResult(
            model,
            modified=modified or moved > 0,
            rewrites=max(before - len(model.graph), 0) + moved,
            refusals=() if kept is None else (kept,),
        )


def uninlinable(model: ir.Model) -> Refusal | None:
    """Why functions stay functions: another opset than the model's, or a call for a part only."""
    for function in model.functions.values():
        for domain, version in function.opset_imports.items():
            have = model.opset_imports.get(domain, version)
            if have != version:
                reason = (
                    f"the function imports opset {version} of {domain or 'ai.onnx'!r}, the model "
                    f"opset {have}; no function is inlined"
                )
                return Refusal("inline-functions", function.name, reason)
    parts: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    nodes = (node for part in parts for node in part.all_nodes())
    for node in nodes if model.functions else ():
        called = model.functions.get(node.op_identifier())
        if called is not None and len(called.outputs) != len(node.outputs):
            reason = (
                f"{len(node.outputs)} of its {len(called.outputs)} outputs are asked for; no "
                "function is inlined"
            )
            return Refusal("inline-functions", node.name or node.op_type, reason)
    return None


def _run(model: ir.Model, steps: tuple[ir.passes.PassBase, ...]) -> bool:
    return sum(step(model).modified for step in steps) > 0


def _lifting(model: ir.Model) -> tuple[ir.passes.PassBase, ...]:
    branched = next(iter(model.graph.subgraphs()), None) is not None
    return (
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        _MainIdentities() if branched else common.IdentityEliminationPass(),
    )


class _MainIdentities(ir.passes.InPlacePass):
    """Identities of the main graph alone: that of a branch may be how it gives an outer value."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in tuple(model.graph):
            source, value = (node.inputs[0], node.outputs[0]) if node.inputs else (None, None)
            if node.op_type != "Identity" or node.domain or source is None or value is None:
                continue
            if value.is_graph_output():
                continue
            value.replace_all_uses_with(source)
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)


def _sharing() -> tuple[ir.passes.PassBase, ...]:
    return (
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.TopologicalSortPass(),
    )


def _lone_concat_to_identity(node: ir.Node) -> int:
    """Exporters concatenate a key/value cache with nothing."""
    if node.op_type != "Concat" or node.domain or len(node.inputs) != 1:
        return 0
    node.op_type = "Identity"
    node.attributes.clear()
    return 1


def _constant_right(node: ir.Node) -> int:
    if node.op_type not in _COMMUTATIVE or node.domain or len(node.inputs) != 2:
        return 0
    left, right = node.inputs
    if left is None or right is None or left.const_value is None or right.const_value is not None:
        return 0
    node.replace_input_with(0, right)
    node.replace_input_with(1, left)
    return 1
