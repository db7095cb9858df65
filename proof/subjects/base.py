"""A subject: anything that answers feeds, under the name the user gave it."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Self

from ...graph.tensors import Array, Feeds, TensorSpec


class Subject(abc.ABC):
    """One open subject. A context manager; `close` is idempotent.

    Attributes:
        name: as the user wrote it, for example ``bundle:build/minilm#ort-cpu``.
        inputs: in the order of the model or graph.
        outputs: the same.
        precision: what it computes in, where that is known: ``fp32``, ``int8`` and so on.
        graph: ONNX file of what it computes, whose values between inputs and outputs can be asked
            for; None for those that are closed, such as kept results.
        notes: what the user should know, such as a fallback that was taken.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str | None = None
    graph: Path | None = None
    notes: tuple[str, ...] = ()

    @abc.abstractmethod
    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Answer once.

        Args:
            feeds: one array an input; inputs the subject does not have are left out by it.

        Returns:
            An array for each output, by name.

        Raises:
            FeedError: on wrong dtypes, ranks or sizes, or an input that is missing.
        """

    def close(self) -> None:
        """Release what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
