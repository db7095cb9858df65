"""What the TensorRT lint finds in a graph that is about to be built: an error ends the build."""

from __future__ import annotations

from itertools import groupby

from ...errors import BuildError
from ...graph.model import Graph
from ...passes.lint.finding import Finding
from ...passes.lint.tensorrt import TARGETS, lint
from ..progress import Journal

_HANDLED = frozenset(
    {
        "attention-float32",  # the backend lets them fall apart and reports each
        "attention-head-size",
        "attention-lengths-dropped",  # the backend sets them in the network and reads them back
    }
)
"""Traps of the parser that our backend steers clear of."""


def refuse_traps(
    graph: Graph, target: str, compute_capabilities: tuple[str, ...], journal: Journal
) -> None:
    """Hold a lowered graph to the lint of its target; other targets than TensorRT pass.

    Args:
        graph: what the backend is about to build.
        target: of the build.
        compute_capabilities: asked for; empty means the target's default.
        journal: gets one note for each rule with warnings.

    Raises:
        BuildError: on the first error, with its node and what to do.
    """
    known = next((name for name in TARGETS if name == target), None)
    if known is None:
        return
    findings = lint(graph.model, known, None, compute_capabilities or None)
    open_ = [finding for finding in findings if finding.rule not in _HANDLED]
    errors = [finding for finding in open_ if finding.severity == "error"]
    if errors:
        raise BuildError(f"{target} cannot build this graph: {_line(errors)}")
    for _, group in groupby(open_, lambda finding: finding.rule):
        journal.note(f"{target}: {_line(list(group))}")


def _line(findings: list[Finding]) -> str:
    first = findings[0]
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return f"{first.rule} at {first.node!r}{more}: {first.message}"
