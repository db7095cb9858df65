"""Tensors of two graphs brought to one layout: a row a real token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graph.tensors import Array, Feeds

Matrix = NDArray[np.float32]
"""[rows, channels]: a row a token, or a row an entry of the first axis."""


@dataclass(frozen=True)
class Layout:
    """How a tensor becomes [batch, sequence, channels] or stays as it is.

    Attributes:
        split: shape to give it first, None for its own.
        order: of its axes then.
        by_token: whether the first two axes are batch and sequence after that.
    """

    split: tuple[int, ...] | None
    order: tuple[int, ...]
    by_token: bool

    def apply(self, array: Array) -> Array:
        """Bring the array to the layout."""
        shaped = array if self.split is None else array.reshape(self.split)
        return shaped.transpose(self.order)

    def invert(self, values: Array, shape: tuple[int, ...]) -> Array:
        """Values in the layout, back in the shape of the tensor it was made for."""
        split = shape if self.split is None else self.split
        there = tuple(split[axis] for axis in self.order)
        back = tuple(int(axis) for axis in np.argsort(self.order))
        return values.reshape(there).transpose(back).reshape(shape)


@dataclass(frozen=True)
class Tokens:
    """Which tokens are real.

    Attributes:
        real: bool [batch, sequence]; None for inputs that are no text.
    """

    real: NDArray[np.bool_] | None

    @classmethod
    def of(cls, feeds: Feeds) -> Tokens:
        """Read the padding mask; one that covers a cache ends with the tokens."""
        ids, mask = feeds.get("input_ids"), feeds.get("attention_mask")
        if ids is None or ids.ndim != 2:
            return cls(None)
        if mask is None or mask.ndim != 2 or len(mask) != len(ids):
            return cls(np.ones(ids.shape, bool))
        return cls(np.asarray(mask[:, -ids.shape[1] :] != 0))

    def layouts(self, shape: tuple[int, ...]) -> Iterator[Layout]:
        """Layouts in which a tensor of this shape may hold a row a token; its own comes first."""
        own = tuple(range(len(shape)))
        if self.real is None:
            yield Layout(None, own, False)
            return
        batch, sequence = self.real.shape
        if shape[:2] == (batch, sequence):
            yield Layout(None, own, True)
        if len(shape) == 4 and shape[0] == batch:
            if shape[2] == sequence:
                yield Layout(None, (0, 2, 1, 3), True)
            if shape[3] == sequence:
                yield Layout(None, (0, 3, 1, 2), True)
        elif len(shape) == 3 and batch > 1 and not shape[0] % batch:
            yield from _merged_heads(shape, batch, sequence)
        elif len(shape) == 2 and shape[0] == batch * sequence:
            yield Layout((batch, sequence, shape[1]), (0, 1, 2), True)
        if shape[:2] != (batch, sequence):
            yield Layout(None, own, False)

    def matrix(self, array: Array, layout: Layout) -> Matrix:
        """Rows of real tokens; of a tensor in no such layout, those of texts that have any."""
        values = np.asarray(layout.apply(array), np.float32)
        if layout.by_token:
            assert self.real is not None
            return values.reshape(*self.real.shape, -1)[self.real]
        values = values.reshape(len(values) if values.ndim else 1, -1)
        if self.real is not None and len(values) == len(self.real):
            return values[self.real.any(axis=1)]
        return values


def _merged_heads(shape: tuple[int, ...], batch: int, sequence: int) -> Iterator[Layout]:
    """[batch * heads, sequence, size], as older exporters write attention, and its transpose."""
    heads = shape[0] // batch
    if heads == 1:
        return
    if shape[1] == sequence:
        yield Layout((batch, heads, *shape[1:]), (0, 2, 1, 3), True)
    if shape[2] == sequence:
        yield Layout((batch, heads, *shape[1:]), (0, 3, 1, 2), True)


def frobenius(rows: NDArray[np.floating[Any]]) -> float:
    """Root of the sum of squares; infinite for masks, whose fills have none in float32.

    Not `numpy.linalg.norm`: its dot product wakes the threads of BLAS, and on a busy machine waits
    for them a hundred times longer than it computes.
    """
    flat = rows.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(np.einsum("i,i->", flat, flat)))
