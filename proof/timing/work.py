"""What is asked of every candidate: sizes, and feeds of these sizes from real tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import FeedError
from ...graph.tensors import Array, Feeds, ShapeProfile, TensorSpec

_SHAPE = re.compile(r"(\d{1,7})(?:x(\d{1,7}))?")
_LEAST_SEQUENCE = 128
_UNKNOWN_IDS = tuple(range(1, 100))
"""Token ids of a graph without a tokenizer; every vocabulary has them."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a call.

    Attributes:
        batch: sequences.
        sequence: tokens of each; None takes the lengths of texts.
    """

    batch: int
    sequence: int | None = None

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``8x128``, or ``8`` for eight texts of their own lengths.

        Raises:
            FeedError: when the text has another form, or a size is 0.
        """
        found = _SHAPE.fullmatch(text.strip().lower())
        sizes = [int(size) for size in found.groups() if size] if found else []
        if not sizes or min(sizes) < 1:
            raise FeedError(
                f"shape {text!r}: expected BATCHxSEQUENCE such as 8x128, or BATCH such as 8 for "
                "texts of their own lengths, sizes from 1"
            )
        return cls(*sizes)

    def __str__(self) -> str:
        return f"{self.batch}x{self.sequence}" if self.sequence else f"{self.batch}"


@dataclass(frozen=True, kw_only=True)
class Work:
    """Inputs of one shape, the same for every candidate.

    Attributes:
        name: for example ``8x128``.
        sequences: of one call.
        inputs: what call i gets is number i modulo their count: feeds, or texts.
        tokens: real tokens of each input, without padding.
        padded: tokens with padding of each input; empty where the runtime pads.
    """

    name: str
    sequences: int
    inputs: tuple[Any, ...] = field(repr=False)
    tokens: tuple[int, ...]
    padded: tuple[int, ...] = ()

    @property
    def mean_tokens(self) -> float:
        """Real tokens of a call."""
        return sum(self.tokens) / len(self.tokens)

    @property
    def largest(self) -> tuple[int, int]:
        """Batch and sequence of the largest call, as far as it is known."""
        width = max(self.padded or self.tokens) / self.sequences
        return self.sequences, max(1, math.ceil(width))

    @property
    def fill(self) -> float | None:
        """Share of real tokens, None where it is not known."""
        return sum(self.tokens) / sum(self.padded) if self.padded else None


def parse_shapes(texts: Iterable[str]) -> tuple[Shape, ...]:
    """Read ``1x128,8x128``; a repeated shape counts once.

    Raises:
        FeedError: naming the one that is no shape.
    """
    parts = [part for text in texts for part in text.split(",")]
    return tuple(dict.fromkeys(Shape.parse(part) for part in parts))


def default_shapes(profile: ShapeProfile | None) -> tuple[Shape, ...]:
    """The least and the best batch of a profile, at its best sequence."""
    if profile is None or "batch" not in profile.axes:
        return Shape(1, _LEAST_SEQUENCE), Shape(8, _LEAST_SEQUENCE)
    least, best, _ = profile.axes["batch"]
    sequence = profile.axes.get("sequence", (0, _LEAST_SEQUENCE, 0))[1]
    return tuple(Shape(batch, sequence) for batch in sorted({least, best}))


def check_shape(name: str, profile: ShapeProfile | None, sizes: Mapping[str, int]) -> None:
    """Refuse sizes that a candidate was not built for.

    Raises:
        FeedError: naming the candidate, the axis and its range.
    """
    if profile is None:
        return
    try:
        profile.check(sizes)
    except FeedError as error:
        raise FeedError(f"{name}: {error}") from error


def drawn_work(shape: Shape, specs: Sequence[TensorSpec], ids: Sequence[int] = ()) -> Work:
    """Full sequences: no padding, random real tokens.

    Args:
        shape: with a sequence.
        specs: inputs of all candidates together.
        ids: token ids to draw from; empty when no tokenizer is known.

    Raises:
        FeedError: when an input has axes that batch and sequence do not say.
    """
    assert shape.sequence is not None
    rng = np.random.default_rng(0)
    pool = np.asarray(ids or _UNKNOWN_IDS, np.int64)
    feeds = {spec.name: _drawn(spec, shape, pool, rng) for spec in specs}
    tokens = shape.batch * shape.sequence
    return Work(
        name=str(shape),
        sequences=shape.batch,
        inputs=(feeds,),
        tokens=(tokens,),
        padded=(tokens,),
    )


def _drawn(spec: TensorSpec, shape: Shape, pool: Array, rng: np.random.Generator) -> Array:
    sizes = _sizes(spec, shape)
    if not spec.dtype.startswith(("int", "uint")):
        if spec.dtype == "bool":
            return np.ones(sizes, bool)
        return rng.normal(0, 1, sizes).astype(spec.dtype)
    if "mask" in spec.name:
        return np.ones(sizes, spec.dtype)
    if "type" in spec.name or "segment" in spec.name:
        return np.zeros(sizes, spec.dtype)
    if "position" in spec.name:
        return np.broadcast_to(np.arange(sizes[-1], dtype=spec.dtype), sizes).copy()
    return rng.choice(pool, sizes).astype(spec.dtype)


def _sizes(spec: TensorSpec, shape: Shape) -> tuple[int, ...]:
    dynamic = [axis for axis, dim in enumerate(spec.dims) if isinstance(dim, str)]
    if len(dynamic) > 2 or (len(spec.dims) > 2 and len(dynamic) > 1):
        raise FeedError(
            f"input {spec}: expected axes for a batch and a sequence alone; other inputs cannot "
            "be drawn"
        )
    sizes = [dim if isinstance(dim, int) else 0 for dim in spec.dims]
    wanted = [shape.batch, shape.sequence or 1]
    for axis in dynamic:
        sizes[axis] = wanted[min(axis, 1)]
    fixed = [(axis, sizes[axis]) for axis in range(min(2, len(sizes))) if axis not in dynamic]
    wrong = [(axis, size) for axis, size in fixed if len(sizes) <= 2 and size != wanted[axis]]
    if wrong:
        axis, size = wrong[0]
        raise FeedError(f"input {spec}: axis {axis} is fixed at {size}, asked was {wanted[axis]}")
    return tuple(sizes)


def chosen(inputs: Feeds, names: Iterable[str]) -> dict[str, Array]:
    """The feeds of some inputs."""
    return {name: inputs[name] for name in names}
