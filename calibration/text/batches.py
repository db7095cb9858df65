"""Token ids to batches without padding, each made when it is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ...errors import CalibrationError
from ...graph.tensors import Array, TensorSpec
from .samples import Sample
from .tokenization import Encoding, Tokenize

BATCH_TOKENS = 1024
"""Tokens in one batch by default: enough to keep two cores busy, 66 MB of MiniLM taps."""

_CHUNK = 256
"""Texts tokenised at a time: an encoding is fifty times as large as its ids."""

Rows = NDArray[np.int32]


@dataclass(frozen=True)
class Batch:
    """Texts of one length.

    Attributes:
        feeds: one array ``[texts, length]`` for each input of the graph.
        indices: which texts of the set these are.
        tokens: texts times length.
    """

    feeds: dict[str, Array]
    indices: tuple[int, ...]
    tokens: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Batches(Sequence[Batch]):
    """Batches from the shortest to the longest texts.

    Kept are six bytes a token; the feeds of a batch live as long as the caller holds it.

    Attributes:
        inputs: of the graph.
        ids: of all texts, one after the other, int32 ``[tokens]``.
        segments: likewise, int16.
        starts: where each text begins in them, and their end, int64 ``[texts + 1]``.
        groups: numbers of the texts in each batch, all of one length.
    """

    inputs: tuple[TensorSpec, ...]
    ids: Rows = field(repr=False)
    segments: NDArray[np.int16] = field(repr=False)
    starts: NDArray[np.int64] = field(repr=False)
    groups: tuple[NDArray[np.int64], ...] = field(repr=False)

    @classmethod
    def of(
        cls,
        texts: Sequence[Sample],
        tokenize: Tokenize,
        inputs: Sequence[TensorSpec],
        max_tokens: int,
    ) -> Batches:
        """Tokenise, and put texts of equal length together; texts without a token are left out.

        Args:
            texts: to tokenise.
            tokenize: the model's tokenizer, truncation included.
            inputs: the graph's inputs.
            max_tokens: tokens a batch; a longer text is a batch of its own.

        Raises:
            CalibrationError: when text cannot fill an input, or the tokenizer pads.
        """
        _check_inputs(inputs)
        ids, segments, ends = array("i"), array("h"), [0]
        for start in range(0, len(texts), _CHUNK):
            for encoding in tokenize(texts[start : start + _CHUNK]):
                _check_unpadded(encoding)
                ids.extend(encoding.ids)
                segments.extend(encoding.type_ids)
                ends.append(len(ids))
        starts = np.array(ends, np.int64)
        return cls(
            inputs=tuple(inputs),
            ids=np.array(ids, np.int32),
            segments=np.array(segments, np.int16),
            starts=starts,
            groups=_groups(np.diff(starts), max_tokens),
        )

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...

    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(len(self))[index])
        texts = self.groups[index]
        starts = self.starts[texts]
        places = starts[:, None] + np.arange(self.starts[texts[0] + 1] - starts[0])
        rows = np.stack([self.ids[places], self.segments[places]], axis=1)
        feeds: dict[str, Array] = {
            spec.name: np.ascontiguousarray(_FILL[spec.name](rows).astype(spec.dtype))
            for spec in self.inputs
        }
        return Batch(feeds, tuple(texts.tolist()), places.size)


def _groups(lengths: NDArray[np.int64], max_tokens: int) -> tuple[NDArray[np.int64], ...]:
    """Numbers of the texts of each batch, by length and then in the order they stand in."""
    order = np.argsort(lengths, kind="stable")
    groups: list[NDArray[np.int64]] = []
    for length in np.unique(lengths[lengths > 0]):
        alike = order[lengths[order] == length]
        size = max(1, max_tokens // int(length))
        groups += [alike[start : start + size] for start in range(0, len(alike), size)]
    return tuple(groups)


def _check_inputs(inputs: Sequence[TensorSpec]) -> None:
    unknown = [spec.name for spec in inputs if spec.name not in _FILL]
    if unknown:
        raise CalibrationError(
            f"input {unknown[0]!r}: text cannot fill it; expected inputs among {sorted(_FILL)}"
        )


def _check_unpadded(encoding: Encoding) -> None:
    if 0 in encoding.attention_mask:
        raise CalibrationError(
            f"tokenizer: expected rows without padding, got {len(encoding.ids)} tokens of "
            f"which {encoding.attention_mask.count(0)} are padding; padding would count as "
            "activations, so turn it off"
        )


_FILL: Mapping[str, Callable[[Rows], Rows]] = {
    "input_ids": lambda rows: rows[:, 0],
    "attention_mask": lambda rows: np.ones_like(rows[:, 0]),
    "token_type_ids": lambda rows: rows[:, 1],
    "position_ids": lambda rows: np.cumsum(np.ones_like(rows[:, 0]), axis=1) - 1,
}
"""How each input is filled from ids and segments ``[texts, 2, length]``."""
