"""Raise a graph to the canonical opset, where Attention is an operator."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ...errors import OpsetError
from ..base import Pass, PassResult, result
from ..shapes.analysis import analyse
from ..shapes.facts import Facts
from .opset_changes import CHANGES, Constants

OLDEST = 11
"""Before it, Clip, Pad, TopK and others took attributes that are inputs now."""


@dataclass(frozen=True)
class RaiseOpset(Pass):
    """Import a newer standard opset and adapt the nodes whose operators changed on the way.

    Nodes of branches and loop bodies are adapted too. One node that cannot be is a reason to leave
    the whole graph as it is, because a graph imports one version for all its nodes.

    Attributes:
        opset: version to import; a graph that already imports it or a newer one is left alone.
    """

    name = "raise-opset"
    opset: int = 23

    def requires(self, model: ir.Model) -> None:
        """Check that the graph can be raised.

        Raises:
            OpsetError: below opset 11, beyond what the installed onnx knows, with local functions,
                or with a node whose old meaning cannot be expressed.
        """
        have = _imported(model)
        _check_version(self.name, have)
        if have >= self.opset:
            return
        if model.functions:
            function = next(iter(model.functions.values()))
            raise OpsetError(
                f"pass {self.name}: the local function {function.name!r} imports an opset of its "
                "own; run clean-up first, which inlines functions"
            )
        facts = analyse(model) if have < _FLATTENING_SOFTMAX else Facts(have)
        for node in model.graph.all_nodes():
            reason = self._refusal(node, have, facts)
            if reason is not None:
                raise OpsetError(f"pass {self.name}: {reason}")

    def call(self, model: ir.Model) -> PassResult:
        """Adapt the nodes and change the import."""
        have = _imported(model)
        if have >= self.opset:
            return result(model, 0)
        constants, adapted = Constants(model), 0
        for node in tuple(model.graph.all_nodes()):
            for change in () if node.domain else CHANGES.get(node.op_type, ()):
                if have < change.opset <= self.opset:
                    change.adapt(node, constants)
                    adapted += 1
        model.opset_imports.pop("ai.onnx", None)
        model.opset_imports[""] = self.opset
        return result(model, 1 + adapted)

    def _refusal(self, node: ir.Node, have: int, facts: Facts) -> str | None:
        for change in () if node.domain else CHANGES.get(node.op_type, ()):
            reason = change.refuse(node, facts) if have < change.opset <= self.opset else None
            if reason is not None:
                return (
                    f"node {node.name!r} is {node.op_type}, which changed in opset "
                    f"{change.opset}: {reason}; export again with opset_version={self.opset}"
                )
        return None


_FLATTENING_SOFTMAX = 13


def _imported(model: ir.Model) -> int:
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))


def _check_version(name: str, have: int) -> None:
    import onnx

    known = onnx.defs.onnx_opset_version()
    if have > known:
        raise OpsetError(
            f"pass {name}: the graph imports opset {have}, the installed onnx {onnx.__version__} "
            f"knows none beyond {known}; install a newer onnx or export with an older opset"
        )
    if have < OLDEST:
        raise OpsetError(
            f"pass {name}: expected a graph of opset {OLDEST} or newer, got opset {have}; "
            f"export again with opset_version={OLDEST} or later"
        )
