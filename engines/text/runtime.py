"""What the runtimes of all tasks share: an open engine, its encoder and the run over batches."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar, cast

import numpy as np

from ...errors import BundleError, VerificationError
from ...graph.tensors import Array
from ..base import Engine
from .batching import BatchBudget, BatchLimits, Indices, Lengths, batches
from .encoder import Encoded, TextEncoder
from .scores import Floats
from .task import Task, TaskSpec


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Answers of one engine call.

    Attributes:
        rows: which rows of the Encoded.
        outputs: float32 [rows, ...], in the order of the task's outputs.
        lengths: tokens of each row.
        begins: column of the first token of each row.
    """

    rows: Indices
    outputs: tuple[Floats, ...]
    lengths: Lengths
    begins: Lengths

    def tokens(self, which: int = 0) -> Iterator[Floats]:
        """One output without its padding: [tokens, ...] for each row."""
        for values, begin, length in zip(
            self.outputs[which], self.begins, self.lengths, strict=True
        ):
            yield values[begin : begin + length]


Answer = TypeVar("Answer")
Options = ParamSpec("Options")
Runtime = TypeVar("Runtime", bound="TextRuntime")

Steps = Generator[Encoded, Iterable[Batch], Answer]
"""An answer up to the engine and from there on: yields the rows once, takes the engine's batches of
them in any order, and returns the answer. Input is refused before the rows are yielded."""


def in_steps(
    method: Callable[Concatenate[Runtime, Options], Steps[Answer]],
) -> Callable[Concatenate[Runtime, Options], Answer]:
    """Make a `Steps` method an ordinary one, which runs the rows by itself; see `TextRuntime`."""

    @functools.wraps(method)
    def answer(runtime: Runtime, *args: Options.args, **options: Options.kwargs) -> Answer:
        steps = method(runtime, *args, **options)
        return finished(steps, runtime.run(next(steps)))

    return cast(Callable[Concatenate[Runtime, Options], Answer], answer)


def finished(steps: Steps[Answer], batches: Iterable[Batch]) -> Answer:
    """The answer, once the rows that the steps yielded have been run."""
    try:
        steps.send(batches)
    except StopIteration as end:
        return cast(Answer, end.value)
    raise AssertionError("steps yield their rows once")


class TextRuntime(abc.ABC):
    """Answers on text with an engine; owns the engine and closes it. May be called by threads.

    Each task writes its ``__call__`` as steps and declares it ``@in_steps``, so that others may run
    the rows of several calls at once; see `steps`.

    Attributes:
        task: its name.
        engine: the open engine.
        encoder: tokenizer and padding.
        spec: the task.

    Args:
        engine: takes the inputs and gives the outputs the spec names.
        encoder: of the same spec.
        limits: sizes the engine accepts.
        budget: bounds of a batch.

    Raises:
        BundleError: when engine and spec do not fit.
    """

    task: ClassVar[Task]

    def __init__(
        self, engine: Engine, encoder: TextEncoder, limits: BatchLimits, budget: BatchBudget
    ) -> None:
        self.engine = engine
        self.encoder = encoder
        self.spec: TaskSpec = encoder.spec
        self._limits = limits
        self._budget = BatchBudget(
            min(budget.max_batch, limits.max_batch or budget.max_batch), budget.max_tokens
        )
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in engine.inputs}
        _check_names("inputs", set(self.spec.inputs), set(self._dtypes), engine)
        outputs = {spec.name for spec in engine.outputs}
        _check_names("outputs", set(self.spec.outputs), outputs, engine)

    @abc.abstractmethod
    def __call__(self, inputs: Any) -> Any:
        """Answer one text, or a list of them in order."""

    def steps(self, inputs: Any, options: Mapping[str, Any] | None = None) -> Steps[Any]:
        """The call with these inputs, for those who run its rows together with others'.

        Args:
            inputs: as for the call.
            options: its keyword arguments.

        Returns:
            Steps that have not begun; `finished` ends them.
        """
        call = cast(Any, type(self).__call__).__wrapped__
        return cast("Steps[Any]", call(self, inputs, **(options or {})))

    def close(self) -> None:
        """Close the engine; may be called twice."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, encoded: Encoded) -> Iterator[Batch]:
        """Run all rows, batch by batch, not in order.

        Raises:
            VerificationError: when the engine answers NaN for a token.
        """
        widths = self._limits.widths(encoded.lengths)
        for rows in batches(widths, self._budget, self._limits):
            yield self._run_batch(encoded, rows, int(widths[rows[0]]))

    def widths(self, lengths: Lengths) -> Lengths:
        """Tokens that texts of these lengths are padded to when each is alone [texts]."""
        return self._limits.widths(lengths)

    def most_rows(self, width: int) -> int:
        """Texts of this width that one engine call takes at most."""
        return self._limits.most_rows(width, self._budget)

    def _run_batch(self, encoded: Encoded, rows: Indices, least_width: int) -> Batch:
        missing = max(0, self._limits.min_batch - rows.size)
        padded = np.concatenate([rows, np.repeat(rows[:1], missing)])
        feeds = self.encoder.feeds(encoded, padded, least_width)
        width = feeds["input_ids"].shape[1]
        answers = self.engine.run(
            {name: feed.astype(self._dtypes[name], copy=False) for name, feed in feeds.items()}
        )
        lengths = encoded.lengths[rows]
        is_left = self.spec.padding_side == "left"
        outputs = tuple(self._checked(name, answers[name], rows.size) for name in self.spec.outputs)
        begins = width - lengths if is_left else np.zeros_like(lengths)
        return Batch(rows=rows, outputs=outputs, lengths=lengths, begins=begins)

    def _checked(self, name: str, answer: Array, rows: int) -> Floats:
        values = answer[:rows].astype(np.float32, copy=False)
        if np.isnan(values).any():
            raise VerificationError(
                f"engine {self.engine.target}: output {name!r} holds NaN; the engine overflows on "
                "this text, rebuild it with --precision fp32 or bf16"
            )
        return values

    def check_labels(self, logits: Floats) -> None:
        """Check that the last axis of the logits has one entry a label.

        Raises:
            BundleError: when not.
        """
        if logits.shape[-1] != len(self.spec.labels):
            raise BundleError(
                f"engine {self.engine.target}: output {self.spec.outputs[0]!r} has "
                f"{logits.shape[-1]} logits, task.json names {len(self.spec.labels)} labels; "
                "rebuild the bundle"
            )


def _check_names(what: str, wanted: set[str], found: set[str], engine: Engine) -> None:
    is_good = wanted == found if what == "inputs" else wanted <= found
    if not is_good:
        raise BundleError(
            f"engine {engine.target}: task.json names the {what} {sorted(wanted)}, "
            f"the engine has {sorted(found)}; rebuild the bundle"
        )
