"""Feeds that exercise a graph: padding, a batch of one, a sequence of one, odd sizes, caches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import CalibrationError
from ...graph.tensors import Array, TensorSpec
from .input_roles import InputRole, Role, SizePlan, size_of

Padding = Literal["none", "right", "hidden"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of one sample.

    Attributes:
        batch: rows.
        sequence: tokens a row.
        target: tokens a row of a second stack, such as a decoder behind an encoder.
        past: tokens that a cache holds already; a mask covers past + sequence of them.
        padding: ``right`` hides up to three tokens of every row but the first, so that no query
            is without a key; ``hidden`` pads on the left and hides the whole last row, so that
            some are.
        image: height and width where an image has no fixed ones.
    """

    batch: int
    sequence: int
    target: int
    past: int
    padding: Padding = "none"
    image: int = 32

    def size(self, role: Role) -> int:
        """Size of what a symbol stands for."""
        sizes: Mapping[Role, int] = {
            "batch": self.batch,
            "sequence": self.sequence,
            "target": self.target,
            "past": self.past,
            "total": self.past + self.sequence,
            "image": self.image,
        }
        return sizes[role]


CASES = (
    Case(batch=3, sequence=7, target=5, past=4, padding="right"),
    Case(batch=1, sequence=1, target=1, past=6),
    Case(batch=1, sequence=9, target=3, past=0),
    Case(batch=2, sequence=16, target=11, past=3, padding="right"),
    Case(batch=3, sequence=6, target=3, past=2, padding="hidden"),
)
"""The first has sizes that all differ, so that a graph rejects a plan that mixes them up."""

_MOST_BYTES = 1 << 28
"""A sample input may become this large; a file can ask for any size."""


@dataclass(frozen=True)
class Sample:
    """Feeds of one case.

    Attributes:
        case: its sizes.
        feeds: one array an input.
        redrawn: the same feeds with other tokens wherever the mask hides one. An answer that
            differs between the two depends on a hidden token. None where every query sees a key.
        empty_rows: bool [batch]: rows of which a mask hides everything.
    """

    case: Case
    feeds: Mapping[str, Array]
    redrawn: Mapping[str, Array] | None = None
    empty_rows: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def shapes(self) -> str:
        """The shape of every input, inputs of equal shape named once."""
        by_shape: dict[str, str] = {}
        for name, array in self.feeds.items():
            by_shape.setdefault(str(list(array.shape)), name)
        return ", ".join(f"{name} {shape}" for shape, name in by_shape.items())


def draw(roles: tuple[InputRole, ...], plan: SizePlan, case: Case, seed: int = 0) -> Sample:
    """Random feeds of one case.

    Integers that index a table stay inside it, positions count on from the cache, masks are 0/1
    over past and sequence, everything else is normal.

    Args:
        roles: of all inputs.
        plan: what each symbol stands for.
        case: the sizes.
        seed: the same seed gives the same feeds.

    Raises:
        CalibrationError: when a fixed size of an input is beyond all use.
    """
    random = np.random.default_rng(seed)
    sizes = {symbol: case.size(role) for symbol, role in plan.items()}
    feeds: dict[str, Array] = {}
    for role in roles:
        shape = [dim if isinstance(dim, int) else size_of(dim, sizes) for dim in role.spec.dims]
        _check_size(role.spec, shape)
        feeds[role.spec.name] = _values(role, shape, case, random)
    masks = [feeds[role.spec.name] for role in roles if role.kind == "mask"]
    masks = [mask for mask in masks if mask.ndim == 2 and len(mask) == case.batch]
    if case.padding != "hidden" or not masks:
        return Sample(case, feeds)
    redrawn = {
        role.spec.name: _redrawn(role, feeds[role.spec.name], masks, case, random) for role in roles
    }
    empty = np.any([(mask == 0).all(axis=1) for mask in masks], axis=0)
    return Sample(case, feeds, redrawn, empty)


def _check_size(spec: TensorSpec, shape: list[int]) -> None:
    needed = math.prod(max(size, 1) for size in shape) * np.dtype(spec.dtype).itemsize
    if min(shape, default=0) < 0 or needed > _MOST_BYTES:
        raise CalibrationError(f"input {spec} needs {needed:,} bytes, a sample {_MOST_BYTES:,}")


def _values(role: InputRole, shape: list[int], case: Case, random: np.random.Generator) -> Array:
    dtype = np.dtype(role.spec.dtype)
    if role.kind == "mask":
        return _mask(role.spec, shape, case)
    if role.kind == "position":
        count = shape[-1] if shape else 1
        line = np.minimum(case.past + np.arange(count), role.limit - 1)
        return np.broadcast_to(line if shape else line[0], shape).astype(dtype)
    if dtype.kind == "b":
        return np.full(shape, case.past > 0)
    if dtype.kind in "iu":
        return random.integers(0, role.limit, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)


def _mask(spec: TensorSpec, shape: list[int], case: Case) -> Array:
    """1 for what a query may see: [batch, length], and the same for every query at higher rank."""
    batch, length = shape[0], shape[-1]
    real: NDArray[np.bool_] = np.ones((batch, length), bool)
    for row in range(1, batch):
        if case.padding == "right":
            real[row, length - min(length - 1, 1 + row, 3) :] = False
        elif case.padding == "hidden":
            real[row, : min(length - 1, case.past + 2)] = False
    if case.padding == "hidden":
        real[-1] = False
    real = real.reshape(batch, *(1 for _ in shape[1:-1]), length)
    return np.broadcast_to(real, shape).astype(spec.dtype)


def _redrawn(
    role: InputRole, tokens: Array, masks: list[Array], case: Case, random: np.random.Generator
) -> Array:
    """Tokens with every hidden one changed; a mask that covers a cache ends with the tokens."""
    if (role.kind != "ids" and (role.kind != "other" or tokens.ndim != 3)) or tokens.ndim < 2:
        return tokens
    hidden = np.zeros(tokens.shape[:2], bool)
    for mask in masks:
        if len(mask) != len(tokens):
            continue
        if tokens.shape[1] in (mask.shape[1], mask.shape[1] - case.past):
            hidden |= mask[:, -tokens.shape[1] :] == 0
    if tokens.dtype.kind in "iu":
        step = random.integers(1, max(2, role.limit), tokens.shape)
        changed = (np.add(tokens, step) % role.limit).astype(tokens.dtype)
    else:
        changed = np.add(tokens, 1 + random.random(tokens.shape)).astype(tokens.dtype)
    return np.where(hidden.reshape(*hidden.shape, *(1 for _ in tokens.shape[2:])), changed, tokens)
