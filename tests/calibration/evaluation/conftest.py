"""A tokenizer of one token a character, and engines that answer by rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from fuselage.engines.base import Engine
from fuselage.engines.text.pipeline import text_pipeline
from fuselage.engines.text.runtime import TextRuntime
from fuselage.engines.text.task import TaskSpec
from fuselage.graph.tensors import Array, Feeds, TensorSpec

CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789?."


class RuleEngine(Engine):
    """Answers with what a function makes of input_ids [batch, sequence]."""

    target = "ort-cpu"

    def __init__(self, rule: Callable[[Array], Mapping[str, Array]], outputs: tuple[str, ...]):
        self.rule = rule
        self.inputs = (TensorSpec("input_ids", "int64", ("batch", "sequence")),)
        self.outputs = tuple(TensorSpec(name, "float32", ("batch",)) for name in outputs)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        return dict(self.rule(feeds["input_ids"]))

    def close(self) -> None:
        pass


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[SEP]": 2}
    vocabulary |= {character: 3 + at for at, character in enumerate(CHARACTERS)}
    found = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    path = tmp_path / "tokenizer.json"
    found.save(str(path))
    return path


@pytest.fixture
def runtime(tokenizer: Path) -> Callable[..., TextRuntime]:
    def made(rule: Any, **spec: Any) -> TextRuntime:
        outputs = spec.pop("outputs", ("logits",))
        task = TaskSpec(inputs=("input_ids",), outputs=outputs, max_tokens=64, **spec)
        return text_pipeline(RuleEngine(rule, outputs), tokenizer, task)

    return made
