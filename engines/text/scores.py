"""Logits to scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import TextError

Floats = NDArray[np.float32]


def softmax(logits: Floats) -> Floats:
    """Along the last axis; float32 in, float32 out."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True), np.float32)


def sigmoid(logits: Floats) -> Floats:
    """Elementwise, without overflow."""
    exponents = np.exp(-np.abs(logits))
    positive = 1 / (1 + exponents)
    return np.asarray(np.where(logits >= 0, positive, exponents * positive), np.float32)


def check_top_k(top_k: int | None) -> None:
    """Refuse a top_k below 1.

    Raises:
        TextError: naming the value.
    """
    if top_k is not None and top_k < 1:
        raise TextError(f"top_k: expected an integer >= 1, got {top_k}")
