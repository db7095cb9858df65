"""Rules that read as an equation: a pattern, the reasons to decline it, the replacement.

The only file that imports onnxscript. Its matcher finds the pattern; the replacement is ours,
because onnxscript 0.7 gives no reason for a refusal, lets two matches create one initializer name,
and does not check that the graph's opset has the operators a rule emits (onnxscript issue 2945).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import Pattern

from ..graph.history import Refusal
from .base import Pass, PassResult, result
from .constants import insert_before, replace_value


class RewriteRule(abc.ABC):
    """One equation. Abstract; concrete rules are final and stateless.

    Attributes:
        source: operator spec or paper the equation comes from.
    """

    source: ClassVar[str] = ""

    pattern: Callable[..., Any]
    """The left side, a method ``pattern(self, op, x, ...)`` written with onnxscript's builder."""

    @abc.abstractmethod
    def refuse(self, values: dict[str, ir.Value]) -> str | None:
        """The reason to decline a match, or None to accept it."""

    @abc.abstractmethod
    def replace(self, tape: ir.tape.Tape, values: dict[str, ir.Value]) -> ir.Value:
        """The right side, recorded on a tape."""


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass that tries its rules, in order, at every node of the main graph.

    Attributes:
        rules: the equations; the first that accepts a node wins.
    """

    rules: ClassVar[tuple[RewriteRule, ...]]

    def call(self, model: ir.Model) -> PassResult:
        """Replace every match; matched inner nodes that others still read are kept."""
        rewrites = 0
        refusals: list[Refusal] = []
        for node in tuple(model.graph):
            if node.graph is None:  # removed with an earlier match
                continue
            rewrites += self._rewrite(model, node, refusals)
        return result(model, rewrites, tuple(refusals))

    def _rewrite(self, model: ir.Model, node: ir.Node, refusals: list[Refusal]) -> int:
        for rule in self.rules:
            match = _matcher(rule).match(model, model.graph, node)
            if not match:
                continue
            reason = rule.refuse(match.bindings)
            if reason is not None:
                refusals.append(Refusal(type(rule).__name__, node.name or "?", reason))
                continue
            tape = ir.tape.Tape()
            new = rule.replace(tape, match.bindings)
            insert_before(node, tape.nodes)
            replace_value(match.outputs[0], new)
            remove_dead(node)
            return 1
        return 0


def remove_dead(*nodes: ir.Node) -> None:
    """Remove nodes nobody reads any more, and then their producers, transitively."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node.graph is None or any(out.uses() or out.is_graph_output() for out in node.outputs):
            continue
        producers = [value.producer() for value in node.inputs if value is not None]
        node.graph.remove(node, safe=True)
        pending.extend(producer for producer in producers if producer is not None)


@cache
def _matcher(rule: RewriteRule) -> Pattern:
    return Pattern(rule.pattern, name=type(rule).__name__)
