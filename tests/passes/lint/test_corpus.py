"""Every trap is found by its rule alone, good graphs are quiet, and TensorRT-RTX agrees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fuselage.passes.lint.tensorrt import RULES, lint

SEVERITY = {rule.name: rule.severity for rule in RULES}
# Errors that the parser and the builder let pass: the engine computes something else.
SILENT = {"domain-ignored", "attention-lengths-dropped", "unread-input"}
SILENT_FILES = {"uint8_activation", "implied_uint8"}
# Warnings that end in no engine, unless it is built as the message says.
FATAL_WARNINGS = {"attention-float32", "attention-head-size", "hardware-type"}


def test_a_trap_is_found_by_its_rule_alone(trap: Any) -> None:
    found = lint(trap.model, compute_capabilities=trap.gpus)
    assert [(finding.rule, finding.node) for finding in found] == [
        (trap.rule, node) for node in trap.nodes
    ]


def test_a_good_graph_is_quiet(good: Any) -> None:
    assert lint(good.model, compute_capabilities=good.gpus) == ()


def test_the_corpus_is_complete(outcomes: Mapping[str, str]) -> None:
    assert sum(outcome == "built" for outcome in outcomes.values()) >= 12
    assert len(outcomes) >= 24 + 12


def test_tensorrt_builds_the_good_graphs(good: Any, outcomes: Mapping[str, str]) -> None:
    assert outcomes[good.name] == "built"


def test_tensorrt_does_what_the_severity_says(trap: Any, outcomes: Mapping[str, str]) -> None:
    silent = trap.rule in SILENT or trap.name in SILENT_FILES
    is_error = SEVERITY[trap.rule] == "error"
    builds = silent if is_error else trap.rule not in FATAL_WARNINGS
    assert (outcomes[trap.name] == "built") == builds, outcomes[trap.name]


def test_the_builder_crashes_on_shared_queries_and_keys(outcomes: Mapping[str, str]) -> None:
    assert outcomes["shared_queries_keys"] == "crashed: signal 11"


def test_the_parser_says_what_the_messages_quote(outcomes: Mapping[str, str]) -> None:
    said = {
        "softcap": "Setting softcap is not supported",
        "past_key": "only supports Attention nodes with one output",
        "unknown_heads": "query number of heads must be divisible by key/value number of heads",
        "asymmetric": "Non-zero zero point is not supported",
        "int32_bias": "has type Int32 but must have type FP8, FP4, Int4, Int8",
        "scatter_inside": "The output tensor must be a network output",
        "attention_float32": "not supported by a dedicated kernel",
        "two_float_types": "type mismatch between matmul operand scales",
    }
    for name, text in said.items():
        assert text in outcomes[name], name
