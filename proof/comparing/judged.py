"""Which numbers of an answer mean something."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...graph.tensors import Array, TensorSpec
from ..subjects.base import Subject
from .cases import Case, Mask

_EXACT = ("fp32", "fp64")


def judged_elements(
    spec: TensorSpec,
    case: Case,
    answer: Array,
    redrawn: Mapping[str, Array] | None,
    *,
    with_empty_rows: bool,
) -> Mask:
    """Where an output is compared: not at padding, and of rows without a token only on request.

    Args:
        spec: the output.
        case: what was asked.
        answer: the reference's.
        redrawn: what the reference answers when hidden tokens are others; None to go by the mask.
        with_empty_rows: whether both sides promise what a row without any token is answered.
    """
    judged: Mask = np.ones(answer.shape, bool)
    if redrawn is not None:
        same = np.equal(answer, redrawn[spec.name])
        judged &= same.all(axis=-1, keepdims=True) if same.ndim > 1 else same
    elif case.mask is not None and _is_per_token(spec, case.mask, answer):
        judged &= case.mask.reshape(*case.mask.shape, *(1 for _ in answer.shape[2:]))
    is_batch = case.mask is not None and answer.shape[:1] == case.mask.shape[:1]
    if not with_empty_rows and is_batch:
        judged[case.empty_rows] = False
    return judged


def promises_empty_rows(subject: Subject) -> bool:
    """Whether it answers a row without any token as transformers' eager attention does.

    PyTorch and bundles in float32 do; 16-bit and INT8 engines promise finite numbers, and graphs
    of other exporters have answers of their own.
    """
    return subject.task is not None and subject.precision in _EXACT


def is_logits(subject: Subject, output: str) -> bool:
    """Whether the last axis of an output is a distribution before its softmax."""
    if subject.task is not None and subject.task.task in ("embedding", "feature-extraction"):
        return False
    return "logits" in output


def _is_per_token(spec: TensorSpec, mask: Mask, answer: Array) -> bool:
    if answer.ndim < 2 or answer.shape[:2] != mask.shape:
        return False
    return isinstance(spec.dims[1], str) or mask.shape[1] == spec.dims[1]
