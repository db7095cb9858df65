"""A subject of numpy alone, with faults to order, and cases for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from fuselage.graph.tensors import Array, Feeds, TensorSpec
from fuselage.proof.comparing.cases import Case
from fuselage.proof.subjects.base import Subject

WORDS, SIZE = 11, 6
TABLE = np.random.default_rng(0).standard_normal((WORDS, SIZE)).astype(np.float32)

Fault = Callable[[Mapping[str, Array], Array], Array]


class TableSubject(Subject):
    """Looks each token up in a table: float32 [batch, sequence, 6].

    Args:
        name: of the subject.
        fault: from feeds and answer to another answer.
        precision: what it says it computes in.
    """

    inputs = (
        TensorSpec("input_ids", "int64", ("batch", "sequence")),
        TensorSpec("attention_mask", "int64", ("batch", "sequence")),
    )
    outputs = (TensorSpec("hidden", "float32", ("batch", "sequence", SIZE)),)

    def __init__(
        self, name: str = "table", fault: Fault | None = None, precision: str | None = "fp32"
    ) -> None:
        self.name = name
        self.precision = precision
        self._fault = fault

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Look up."""
        answer: Array = TABLE[np.asarray(feeds["input_ids"], np.int64)]
        return {"hidden": answer if self._fault is None else self._fault(feeds, answer)}


@pytest.fixture
def cases() -> tuple[Case, ...]:
    """Two cases: without padding, and with."""
    random = np.random.default_rng(1)
    found = []
    for name, lengths in (("even", (4, 4)), ("ragged", (5, 2, 3))):
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        feeds = {
            "input_ids": random.integers(0, WORDS, mask.shape),
            "attention_mask": mask.astype(np.int64),
        }
        texts = tuple(f"{name} {row}" for row in range(len(lengths)))
        found.append(Case(name=name, feeds=feeds, mask=mask, texts=texts))
    return tuple(found)
