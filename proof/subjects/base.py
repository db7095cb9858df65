"""A subject: anything that answers feeds, under the name the user gave it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np

from ...engines.text.task import TaskSpec
from ...errors import FeedError
from ...graph.tensors import Array, Feeds, ShapeProfile, TensorSpec


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
        task: what a text runtime must know; None where there is no text, as for an ONNX file.
        tokenizer: tokenizer.json, where there is a task; it lives as long as the subject.
        profile: sizes it was built for; None where it takes any.
        kept: name of a case -> feeds, where only these can be answered; empty where any can.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str | None = None
    graph: Path | None = None
    notes: tuple[str, ...] = ()
    task: TaskSpec | None = None
    tokenizer: Path | None = None
    profile: ShapeProfile | None = None
    kept: Mapping[str, Feeds] = {}

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

    def in_float64(self) -> Subject | None:
        """The same in float64, to tell its own rounding error; None where there is no such."""
        return None

    def close(self) -> None:  # noqa: B027 (not every subject holds something)
        """Release what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def chosen_feeds(inputs: tuple[TensorSpec, ...], feeds: Feeds, name: str) -> dict[str, Array]:
    """What a subject takes of the feeds; integers are cast to its own when they fit.

    Args:
        inputs: of the subject.
        feeds: one array an input, and perhaps others.
        name: of the subject, for the message.

    Raises:
        FeedError: when an input is missing, or an integer does not fit.
    """
    missing = [spec.name for spec in inputs if spec.name not in feeds]
    if missing:
        raise FeedError(
            f"{name}: expected feeds for {', '.join(spec.name for spec in inputs)}, got "
            f"{', '.join(feeds) or 'none'}; {missing[0]!r} is missing"
        )
    return {spec.name: _cast(feeds[spec.name], spec, name) for spec in inputs}


def _cast(array: Array, spec: TensorSpec, name: str) -> Array:
    wanted = np.dtype(spec.dtype)
    if array.dtype == wanted or not {array.dtype.kind, wanted.kind} <= set("iub"):
        return np.ascontiguousarray(array)
    cast = array.astype(wanted)
    if not np.array_equal(cast, array):
        raise FeedError(f"{name}: values of {spec.name!r} do not fit its dtype {spec.dtype}")
    return cast
