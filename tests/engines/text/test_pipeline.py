"""From a task to its callable; life cycle; what the package imports."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fuselage.engines.text.pipeline import RUNTIMES, text_pipeline
from fuselage.engines.text.task import TASKS
from fuselage.errors import BundleError


def hidden(feeds: Any) -> Any:
    return {"last_hidden_state": feeds["input_ids"][..., None].astype(np.float32)}


def build(bert: Any, fixed_engine: Any, **changes: Any) -> Any:
    spec = replace(bert.spec, inputs=("input_ids",), **changes)
    return text_pipeline(fixed_engine(hidden, ("last_hidden_state",)), bert.path, spec)


def test_every_task_has_its_runtime() -> None:
    assert set(RUNTIMES) == set(TASKS)
    assert all(runtime.task == task for task, runtime in RUNTIMES.items())


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("embedding", {"dimension": 1}),
        ("feature-extraction", {}),
        ("sequence-classification", {"labels": ("a",)}),
        ("token-classification", {"labels": ("a",)}),
        ("question-answering", {"outputs": ("last_hidden_state", "last_hidden_state")}),
        ("fill-mask", {}),
    ],
)
def test_task_decides_the_class(bert: Any, fixed_engine: Any, task: str, changes: Any) -> None:
    runtime = build(bert, fixed_engine, task=task, **changes)
    assert type(runtime) is RUNTIMES[task]  # type: ignore[index]
    assert runtime.task == task
    assert runtime.engine.target == "ort-cpu"


def test_close_closes_the_engine(bert: Any, fixed_engine: Any) -> None:
    with build(bert, fixed_engine) as runtime:
        assert runtime("the fox").shape == (1, 4, 1)
        assert runtime.engine.closed == 0
    assert runtime.engine.closed == 1


def test_names_must_fit_the_engine(bert: Any, fixed_engine: Any) -> None:
    engine = fixed_engine(hidden, ("last_hidden_state",))
    with pytest.raises(BundleError, match=r"names the inputs \['attention_mask', 'input_ids', "):
        text_pipeline(engine, bert.path, bert.spec)
    with pytest.raises(BundleError, match=r"names the outputs \['logits'\], the engine has \['l"):
        build(bert, fixed_engine, outputs=("logits",))


def test_threads_get_their_own_answers(bert: Any, fixed_engine: Any) -> None:
    runtime = build(bert, fixed_engine)
    texts = ["the fox", "Paris", "lazy dog near Berlin", "x"]
    expected = [runtime(text) for text in texts]
    wrong: list[int] = []

    def ask(index: int) -> None:
        answers = [runtime(texts[index]) for _ in range(50)]
        wrong.extend(index for answer in answers if not np.array_equal(answer, expected[index]))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


PROGRAM = """
import sys
import fuselage.engines.text.pipeline as pipeline
heavy = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "sentence_transformers"}
early = sorted((heavy | {"tokenizers", "onnxruntime"}) & set(sys.modules))
import numpy
from pathlib import Path
from fuselage.engines.base import Engine
from fuselage.engines.text.task import TaskSpec
from fuselage.graph.tensors import TensorSpec

class Lengths(Engine):
    target = "ort-cpu"
    inputs = (TensorSpec("input_ids", "int64", ("batch", "sequence")),)
    outputs = (TensorSpec("vector", "float32", ("batch", 1)),)
    def run(self, feeds):
        return {"vector": (feeds["input_ids"] > 0).sum(1, keepdims=True).astype("float32")}
    def close(self):
        pass

spec = TaskSpec(task="embedding", inputs=("input_ids",), outputs=("vector",), max_tokens=9,
                dimension=1)
answer = pipeline.text_pipeline(Lengths(), Path(sys.argv[1]), spec)(["the fox", "fox"])
print(early, answer.tolist(), sorted(heavy & set(sys.modules)))
"""


def test_package_imports_nothing_heavy(bert: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bert.path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "[] [[4.0], [3.0]] []\n"
