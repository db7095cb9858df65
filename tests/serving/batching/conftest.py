"""Runtimes over an engine of a few lines, whose answers do not depend on padding."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from fuselage.engines.base import Engine
from fuselage.engines.text.pipeline import text_pipeline
from fuselage.engines.text.runtime import TextRuntime
from fuselage.engines.text.task import TaskSpec
from fuselage.graph.tensors import Array, Feeds, TensorSpec

WORDS = (*"abcdefghij", "poison", "nan")
POISON, NAN = WORDS.index("poison") + 1, WORDS.index("nan") + 1


class SumEngine(Engine):
    """Sums a table over the tokens of each text; can be held, and breaks on one word.

    Attributes:
        gate: calls wait while it is cleared.
        begun: set by every call.
        batches: texts and width of each call.
        fault: raised by every call when set.
    """

    target = "ort-cpu"

    def __init__(self, output: str, columns: int) -> None:
        self.inputs = tuple(
            TensorSpec(name, "int64", ("batch", "sequence"))
            for name in ("input_ids", "attention_mask")
        )
        self.outputs = (TensorSpec(output, "float32", ("batch", columns)),)
        self.table = np.random.default_rng(0).normal(size=(64, columns)).astype(np.float32)
        self.table[NAN] = np.nan
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.batches: list[tuple[int, ...]] = []
        self.fault: Exception | None = None

    def run(self, feeds: Feeds) -> dict[str, Array]:
        self.batches.append(feeds["input_ids"].shape)
        self.begun.set()
        assert self.gate.wait(20)
        if self.fault is not None:
            raise self.fault
        if (feeds["input_ids"] == POISON).any():
            raise ValueError("poisoned")
        rows = self.table[feeds["input_ids"]] * feeds["attention_mask"][..., None]
        return {self.outputs[0].name: rows.sum(axis=1, dtype=np.float64).astype(np.float32)}

    def close(self) -> None:
        pass


Make = Callable[..., tuple[TextRuntime, SumEngine]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A runtime of a task and its engine."""
    vocabulary = {"[PAD]": 0} | {word: index + 1 for index, word in enumerate(WORDS)}
    vocabulary["[UNK]"] = 63
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))

    def runtime(task: Any = "embedding", **spec: Any) -> tuple[TextRuntime, SumEngine]:
        output = "embeddings" if task == "embedding" else "logits"
        settings = {"dimension": 4} if task == "embedding" else {}
        whole = TaskSpec(
            task=task,
            inputs=("input_ids", "attention_mask"),
            outputs=(output,),
            max_tokens=64,
            pad_token_id=0,
            **(settings | spec),
        )
        engine = SumEngine(output, 4)
        return text_pipeline(engine, path, whole), engine

    return runtime
