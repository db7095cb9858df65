"""Operators outside the standard domain: the parser looks at their names alone."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from .finding import Hit, Rule, Subject, name_of, operand

_STANDARD = ("", "ai.onnx")
_OWN_IMPORTERS = ("trt",)
"""Domain of TRT_Attention and the other operators that the parser adds on its own."""

_CONTRIB = "com.microsoft"
_IMPORTED = frozenset(
    {"Gelu", "RotaryEmbedding", "MultiHeadAttention", "SkipSimplifiedLayerNormalization",
     "SimplifiedLayerNormalization", "QuantizeLinear", "DequantizeLinear"}
)  # fmt: skip
"""Operators of com.microsoft that TensorRT-RTX 1.7.1 parsed and built."""
_REFUSED_OPERANDS = {3: "bias", 4: "key_padding_mask", 6: "past_key", 7: "past_value"}
"""Inputs of MultiHeadAttention that TensorRT-RTX 1.7.1 refused."""


def _foreign(subject: Subject) -> Iterator[ir.Node]:
    for node in subject.nodes:
        if node.domain in (*_STANDARD, *_OWN_IMPORTERS):
            continue
        if node.op_identifier() not in subject.model.functions:
            yield node


def _is_imported(node: ir.Node) -> bool:
    if node.domain != _CONTRIB or node.op_type not in _IMPORTED:
        return False
    return node.op_type != "MultiHeadAttention" or not _refused_part(node)


def _refused_part(node: ir.Node) -> str | None:
    if len(node.outputs) > 1:
        return "its present keys and values"
    if operand(node, 1) is None or operand(node, 2) is None:
        return "packed queries, keys and values"
    refused = (name for index, name in _REFUSED_OPERANDS.items() if operand(node, index))
    return next((f"its input {name}" for name in refused), None)


def _is_standard_name(node: ir.Node) -> bool:
    import onnx

    return bool(onnx.defs.has(node.op_type, ""))


def _ignored_domain(subject: Subject) -> Iterator[Hit]:
    for node in _foreign(subject):
        if _is_standard_name(node) and not _is_imported(node) and not _is_attention(node):
            yield (
                name_of(node),
                f"{node.domain}::{node.op_type}: the parser ignores the domain and reads the "
                f"standard {node.op_type}, whatever this one computes; write it in standard "
                "operators, or give the domain a function of that name",
            )


def _is_attention(node: ir.Node) -> bool:
    """com.microsoft::Attention with packed weights: refused, for its inputs differ in rank."""
    return (node.domain, node.op_type) == (_CONTRIB, "Attention") and not operand(node, 3)


def _contrib(subject: Subject) -> Iterator[Hit]:
    for node in _foreign(subject):
        if node.domain != _CONTRIB or _is_imported(node):
            continue
        if _is_standard_name(node) and not _is_attention(node):
            continue
        part = _refused_part(node) if node.op_type == "MultiHeadAttention" else None
        why = f"refuses {part}" if part else "has no importer for it"
        yield (
            name_of(node),
            f"{_CONTRIB}::{node.op_type} is an operator of ONNX Runtime: the parser {why}; "
            "start from the graph before ONNX Runtime's optimiser, or use standard operators",
        )


def _contrib_imported(subject: Subject) -> Iterator[Hit]:
    for node in _foreign(subject):
        if _is_imported(node):
            yield (
                name_of(node),
                f"{_CONTRIB}::{node.op_type}: TensorRT-RTX imports it, fuselage and TensorRT 10 "
                "do not; use the standard operator where there is one",
            )


def _custom(subject: Subject) -> Iterator[Hit]:
    for node in _foreign(subject):
        if node.domain != _CONTRIB and not _is_standard_name(node):
            yield (
                name_of(node),
                f"{node.domain}::{node.op_type}: the parser looks for a plugin of that name and "
                "stops; write it in standard operators, or as a function of the model",
            )


RULES = (
    Rule(
        name="domain-ignored",
        severity="error",
        title="a foreign operator with a standard name is built as the standard operator",
        check=_ignored_domain,
    ),
    Rule(
        name="contrib-operator",
        severity="error",
        title="an operator of ONNX Runtime that TensorRT has no importer for",
        check=_contrib,
    ),
    Rule(
        name="contrib-imported",
        severity="warning",
        title="an operator of ONNX Runtime that TensorRT-RTX alone imports",
        check=_contrib_imported,
    ),
    Rule(
        name="custom-operator",
        severity="error",
        title="an operator that needs a plugin",
        check=_custom,
    ),
)
