"""Asks graphs the user's examples; the float one first.

Apart from `drops`, which judges engines where no graph can be read: on a host without onnx.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...engines.text.pipeline import text_pipeline
from ...engines.text.task import TaskSpec
from ...graph.model import Graph
from .answers import Progress, answer_all
from .drops import MetricDrop, drops_between
from .examples import Examples
from .graph_engine import GraphEngine


class Evaluator:
    """Holds the answers of the float graph, which others are compared with.

    Attributes:
        examples: what is asked.

    Args:
        graph: the float graph.
        tokenizer: tokenizer.json.
        spec: the task.
        examples: made for that task.
        threads: CPU threads, 0 for all physical cores.
        on_progress: called with (inputs answered, inputs in all).

    Raises:
        CalibrationError: when ONNX Runtime cannot run the graph, or a text cannot be asked.
    """

    def __init__(
        self,
        graph: Graph,
        tokenizer: Path,
        spec: TaskSpec,
        examples: Examples,
        *,
        threads: int = 0,
        on_progress: Progress | None = None,
    ) -> None:
        self.examples = examples
        self._tokenizer, self._spec = tokenizer, spec
        self._threads, self._on_progress = threads, on_progress
        self._reference = self._answers(graph)

    def drops(self, graph: Graph) -> tuple[MetricDrop, ...]:
        """Answer the examples with another graph and compare."""
        return drops_between(self.examples, self._reference, self._answers(graph))

    def _answers(self, graph: Graph) -> list[Any]:
        engine = GraphEngine(graph, threads=self._threads)
        with text_pipeline(engine, self._tokenizer, self._spec) as runtime:
            return answer_all(runtime, self.examples, self._on_progress)
