"""Pair landmarks of the reference with values of the candidate, by what they hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...graph.tensors import Array
from .landmarks import Landmark
from .tokens import Layout, Matrix, Tokens, frobenius

Form = Literal["same", "moved", "part"]
"""``same``: equal values; ``moved``: each channel times a factor plus a constant, as passes leave
them that fold a bias or a scale into what follows; ``part``: a part of the channels, as of Q, K and
V in one product."""

_CLEARLY = 0.5
"""A moved or partial value is preferred when its error is less than that part of the other's."""

_LEAST_ROWS = 8
"""Different rows below which two numbers a channel fit anything."""

_PROBED = 8
"""Channels that are looked at before all of them are."""

_PROBE_SLACK = 4.0

_NORM_SLACK = 1e-5
"""Norms in float32 are as exact as this."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The value of the candidate that is nearest to a landmark.

    Attributes:
        value: its name.
        form: how it is read.
        part: which part of the channels, for that form.
        layout: that makes it a row a token.
        shape: of the value.
        dtype: of the value.
        error: Frobenius norm of the difference over that of the landmark.
    """

    value: str
    form: Form
    layout: Layout
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    error: float
    part: int = 0


@dataclass
class Pairing:
    """The nearest value of every landmark, kept as the values pass by.

    Args:
        marks: the landmarks.
        tokens: which tokens are real.
        best: index of a landmark -> its nearest value.
        infinite: names of values that hold NaN or infinity; masks hold -infinity, which is none.
        overflowed: landmarks of whose shape such a value is.
        barred: names of the values that a landmark must not be paired with.
    """

    marks: Sequence[Landmark]
    tokens: Tokens
    barred: Mapping[int, frozenset[str]] = field(default_factory=dict)
    best: dict[int, Pair] = field(default_factory=dict)
    infinite: list[str] = field(default_factory=list)
    overflowed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, mark in enumerate(self.marks):
            self._by_shape[mark.rows.shape].append(index)

    def equal(self, values: Iterable[tuple[str, Array]]) -> None:
        """Look for values that equal a landmark; the earlier of two equal ones is kept."""
        for name, array in values:
            if not np.less(array, np.inf).all():
                self._note_infinite(name, array)
                continue
            for layout, rows in self._forms(array):
                norm = frobenius(rows)
                if not np.isfinite(norm):
                    break
                for index in self._by_shape.get(rows.shape, ()):
                    mark = self.marks[index]
                    if abs(norm - mark.norm) <= (self.error(index) + _NORM_SLACK) * mark.norm:
                        error = relative(mark, rows)
                        self._offer(index, name, "same", layout, array, error)

    def moved(self, values: Iterable[tuple[str, Array]], above: float) -> None:
        """Look for values that are a landmark but for a factor and a constant, or hold it.

        Args:
            values: the same values again.
            above: landmarks with a smaller error are left alone.
        """
        open_marks = {index for index in range(len(self.marks)) if self.error(index) > above}
        fitted = {index for index in open_marks if self.marks[index].different >= _LEAST_ROWS}
        limits = {index: _CLEARLY * self.error(index) for index in open_marks}
        for name, array in values:
            for layout, rows in self._forms(array):
                if not np.isfinite(rows).all():
                    break
                for index in fitted.intersection(self._by_shape.get(rows.shape, ())):
                    if not _may_be_moved(self.marks[index], rows, limits[index]):
                        continue
                    error = moved_error(self.marks[index].rows, rows)
                    if error < limits[index]:
                        self._offer(index, name, "moved", layout, array, error)
                for index, part, piece in self._pieces(rows, open_marks):
                    error = relative(self.marks[index], piece)
                    if error < limits[index]:
                        self._offer(index, name, "part", layout, array, error, part)

    def _note_infinite(self, name: str, array: Array) -> None:
        self.infinite.append(name)
        for _, rows in self._forms(array):
            self.overflowed.update(self._by_shape.get(rows.shape, ()))

    def _forms(self, array: Array) -> Iterator[tuple[Layout, Matrix]]:
        if array.size < 2:
            return
        for layout in self.tokens.layouts(array.shape):
            yield layout, self.tokens.matrix(array, layout)

    def _pieces(self, rows: Matrix, wanted: set[int]) -> Iterator[tuple[int, int, Matrix]]:
        for parts in (2, 3):
            width, rest = divmod(rows.shape[1], parts)
            if rest:
                continue
            for index in wanted.intersection(self._by_shape.get((len(rows), width), ())):
                for part in range(parts):
                    yield index, part, rows[:, part * width : (part + 1) * width]

    def error(self, index: int) -> float:
        """Least error found for a landmark, infinite when nothing has its shape."""
        pair = self.best.get(index)
        return float("inf") if pair is None else pair.error

    def _offer(
        self,
        index: int,
        name: str,
        form: Form,
        layout: Layout,
        array: Array,
        error: float,
        part: int = 0,
    ) -> None:
        if error < self.error(index) and name not in self.barred.get(index, ()):
            self.best[index] = Pair(
                value=name,
                form=form,
                layout=layout,
                shape=array.shape,
                dtype=array.dtype,
                error=error,
                part=part,
            )


def relative(mark: Landmark, rows: Matrix) -> float:
    """Frobenius norm of the difference over that of the landmark."""
    return frobenius(mark.rows - rows) / mark.norm


def _may_be_moved(mark: Landmark, rows: Matrix, most: float) -> bool:
    """Judge by a few channels first: nearly all values are out at once."""
    step = max(1, rows.shape[1] // _PROBED)
    return moved_error(mark.rows[:, ::step], rows[:, ::step]) < _PROBE_SLACK * most


def moved_error(marked: Matrix, rows: Matrix) -> float:
    """What is left when each channel may have a factor and a constant of its own (least squares).

    It is relative to what the landmark is without its own constants, and corrected for the two
    numbers that were fitted to each channel.
    """
    count = len(rows)
    wanted, got = (_centred(values) for values in (marked, rows))
    power = np.square(got).sum(axis=0)
    slope = (wanted * got).sum(axis=0) / np.where(power > 0, power, 1.0)
    spread = frobenius(wanted)
    if not spread:
        return float("inf")
    rest = frobenius(wanted - slope * got)
    return rest / spread * float(np.sqrt(count / (count - 2)))


def _centred(rows: Matrix) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    centred: NDArray[np.float64] = wide - wide.mean(axis=0)
    return centred
