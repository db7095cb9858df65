"""A runtime that answers chunks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import TextError
from .chunks import Chunk
from .resumable import placed

if TYPE_CHECKING:
    from ...engines.text.runtime import TextRuntime


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Asks a runtime; warnings of one kind are told once, because every chunk may have them.

    Attributes:
        runtime: of a bundle.
        question: question answering: asked of every text; None when the rows hold their own.
        told: takes the text of a warning.

    Raises:
        TextError: when the question does not fit the task.
    """

    runtime: TextRuntime
    question: str | None
    told: Callable[[str], None]

    def __post_init__(self) -> None:
        task = self.runtime.task
        if self.question is not None and task != "question-answering":
            raise TextError(f"--question is for question-answering bundles, this one is {task}")
        object.__setattr__(self, "_kinds", set())

    def __call__(self, chunk: Chunk) -> Any:
        """Answers in the order of the chunk.

        Raises:
            TextError: naming the row that cannot be answered.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                answers = self.runtime([self._input(row.text, row.place) for row in chunk.rows])
            except TextError as error:
                raise placed(error, chunk) from error
        kinds: set[type[Warning]] = self.__dict__["_kinds"]
        for warning in caught:
            if warning.category not in kinds:
                kinds.add(warning.category)
                rows = f"texts {chunk.begin:,} to {chunk.end - 1:,}: " if chunk.begin else ""
                self.told(f"{rows}{warning.message}")
        return answers

    def _input(self, text: Any, place: str) -> Any:
        if self.runtime.task != "question-answering":
            return text
        if isinstance(text, tuple):
            if self.question is not None:
                raise TextError(f"{place}: expected a context, as --question asks, got a pair")
            return {"question": text[0], "context": text[1]}
        if self.question is None:
            raise TextError(
                "this bundle answers questions: give one with --question, or two columns with "
                "--text-column"
            )
        return {"question": self.question, "context": text}
