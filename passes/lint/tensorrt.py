"""The table of rules, and the lint that applies it to a graph.

Every rule was held against parse and build of a small graph with TensorRT-RTX 1.7.1; docs/lint.md
says what was measured. The parser of the ``tensorrt`` flavour comes from the same source, and
has not been run.
"""

from __future__ import annotations

import onnx_ir as ir

from ...errors import GraphError, PassError
from ..presets import Precision
from ..validate import first_defect
from . import attention, domains, inputs, kernels, operators, precision, quantization
from .finding import Finding, Rule, Subject, Target, inspected

RULES: tuple[Rule, ...] = (
    *domains.RULES,
    *operators.RULES,
    *attention.RULES,
    *kernels.RULES,
    *precision.RULES,
    *quantization.RULES,
    *inputs.RULES,
)
"""All rules, in the order of the documentation."""

TARGETS: tuple[Target, ...] = ("tensorrt-rtx", "tensorrt")
COMPUTE_CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")
"""The GPUs that a build of ``tensorrt-rtx`` without a choice compiles for."""


def lint(
    model: ir.Model,
    target: Target = "tensorrt-rtx",
    precision: Precision | None = None,
    compute_capabilities: tuple[str, ...] | None = None,
) -> tuple[Finding, ...]:
    """Find what TensorRT refuses, crashes on, or reads otherwise than ONNX says.

    Args:
        model: any ONNX graph; not changed. Weights are not read, only constants of up to 4,096
            elements.
        target: ``tensorrt-rtx`` or ``tensorrt``.
        precision: what float32 is going to be lowered to before the engine is built; None for a
            graph that is lowered already.
        compute_capabilities: the GPUs the engine is for, such as ``SM89``; None for those that a
            build without a choice compiles for, of which ``tensorrt`` has none ahead of time.

    Returns:
        Findings, errors first, then in the order of the rules and of the graph.

    Raises:
        PassError: on another target.
        GraphError: on a node without operands or attributes that ONNX requires.
    """
    if target not in TARGETS:
        raise PassError(f"target {target!r}: the lint knows {' and '.join(TARGETS)}")
    if compute_capabilities is None:
        compute_capabilities = COMPUTE_CAPABILITIES if target == "tensorrt-rtx" else ()
    subject = Subject(
        model=_inspected(model),
        target=target,
        precision=precision,
        compute_capabilities=compute_capabilities,
    )
    found = dict.fromkeys(finding for rule in RULES for finding in _apply(rule, subject))
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def _inspected(model: ir.Model) -> ir.Model:
    try:
        return inspected(model)
    except (RuntimeError, ValueError) as error:  # from onnx_ir, whatever is wrong with the graph
        raise _malformed(model, error) from error


def _apply(rule: Rule, subject: Subject) -> tuple[Finding, ...]:
    try:
        hits = tuple(rule.check(subject))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # Rules take operands and attributes that ONNX requires for granted.
        raise _malformed(subject.model, error) from error
    return tuple(Finding(rule.name, rule.severity, node, message) for node, message in hits)


def _malformed(model: ir.Model, error: Exception) -> GraphError:
    defect = first_defect(model) or " ".join(str(error).split())[:200]
    return GraphError(f"the graph is malformed: {defect}; export it again")
