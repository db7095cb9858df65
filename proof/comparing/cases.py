"""What subjects are asked: the user's texts, and what tends to break engines."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...calibration.text.samples import Sample, TokenIds
from ...engines.text.encoder import TextEncoder, TruncationWarning
from ...engines.text.task import TaskSpec
from ...errors import TextError
from ...graph.tensors import Array, Feeds

Mask = NDArray[np.bool_]

_BATCH = 8
_MOST_TOKENS = 1024
"""Of a case of several rows: the largest batch at the greatest length has fewer of them instead."""

_LONGEST = 2048
"""Tokens of the longest case: eager attention of 8,192 of them fills 3 GiB a layer."""

_WIDE, _ROOM = 64, 8


@dataclass(frozen=True, kw_only=True)
class Case:
    """Feeds, and which of the answers mean something.

    Attributes:
        name: for tables and messages.
        feeds: one array an input.
        mask: bool [batch, sequence], False at padding; None where the inputs have none.
        redrawn: the same with other tokens wherever the mask hides one; an answer that differs
            between the two depends on a hidden token and is not judged. None: `mask` says it.
        texts: what each row reads, where it is a text.
    """

    name: str
    feeds: Feeds = field(repr=False)
    mask: Mask | None = field(default=None, repr=False)
    redrawn: Feeds | None = field(default=None, repr=False)
    texts: tuple[str, ...] = ()

    @property
    def empty_rows(self) -> NDArray[np.intp]:
        """Rows of which the mask hides everything."""
        return np.flatnonzero([] if self.mask is None else ~self.mask.any(axis=1))

    @property
    def tokens(self) -> int:
        """Of all rows, padding included."""
        shapes = [array.shape[:2] for array in self.feeds.values() if array.ndim >= 2]
        return max((batch * width for batch, width in shapes), default=0)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What all subjects take: (least, most) of each axis."""

    batch: tuple[int, int] = (1, 1024)
    sequence: tuple[int, int] = (1, 1024)


@dataclass(frozen=True, kw_only=True)
class _Row:
    ids: tuple[int, ...]
    types: tuple[int, ...]
    text: str

    def cut(self, length: int) -> _Row:
        """The row repeated or cut to a length."""
        ids, types = (tuple(islice(cycle(values), length)) for values in (self.ids, self.types))
        return _Row(ids=ids, types=types, text=self.text if length >= len(self.ids) else "")


def text_cases(
    tokenizer: Path, spec: TaskSpec, texts: Sequence[Sample], sizes: Sizes
) -> tuple[Case, ...]:
    """The texts in batches as they come, then everything that tends to break an engine.

    Args:
        tokenizer: tokenizer.json.
        spec: the task.
        texts: texts, pairs or token ids.
        sizes: what all subjects take.

    Raises:
        TextError: when there is no text, or one cannot be tokenised.
    """
    longest = min(sizes.sequence[1], spec.max_tokens, _LONGEST)
    rows = _tokenised(tokenizer, spec, texts, longest)
    maker = _Maker(spec, rows, Sizes(batch=sizes.batch, sequence=(sizes.sequence[0], longest)))
    found: dict[tuple[object, ...], Case] = {}
    for case in (*maker.texts(), *maker.adversarial(), *maker.edges()):
        content = tuple(array.tobytes() for array in case.feeds.values())
        found.setdefault((case.feeds["input_ids"].shape, content), case)
    return tuple(found.values())


def _tokenised(
    tokenizer: Path, spec: TaskSpec, texts: Sequence[Sample], longest: int
) -> list[_Row]:
    if not texts:
        raise TextError("expected at least one text to compare answers on, got none")
    encoder = TextEncoder(tokenizer, spec, longest)
    written = [text for text in texts if not isinstance(text, TokenIds)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # what is compared is the model's input
        encodings = iter(encoder.encode(written).encodings if written else ())
    rows = []
    for text in texts:
        if isinstance(text, TokenIds):
            ids = text.ids[:longest]
            rows.append(_Row(ids=ids, types=(0,) * len(ids), text=""))
            continue
        encoding = next(encodings)
        shown = text if isinstance(text, str) else " | ".join(text)
        rows.append(_Row(ids=tuple(encoding.ids), types=tuple(encoding.type_ids), text=shown))
    return rows


class _Maker:
    def __init__(self, spec: TaskSpec, rows: list[_Row], sizes: Sizes) -> None:
        self._spec = spec
        self._rows = rows
        self._sizes = sizes

    def texts(self) -> Iterator[Case]:
        start = 0
        while start < len(self._rows):
            most = min(_BATCH, self._sizes.batch[1])
            chosen = self._rows[start : start + most]
            while len(chosen) > 1 and len(chosen) * max(map(_length, chosen)) > _MOST_TOKENS:
                chosen = chosen[:-1]
            end = start + len(chosen)
            yield self._case(f"texts {start + 1} to {end}", chosen)
            start = end

    def adversarial(self) -> Iterator[Case]:
        longest = self._sizes.sequence[1]
        first, *_ = by_length = sorted(self._rows, key=_length)
        wide = min(_WIDE, max(longest - _ROOM, 1))  # there is room to pad it further
        mixed = list(islice(cycle(self._rows), 4))
        yield self._case("one token", [self._rows[0].cut(1)])
        yield self._case("longest", [self._rows[0].cut(longest)])
        yield self._case("batch of one", [first])
        yield self._case("row of padding", [mixed[0], mixed[1].cut(0), mixed[2]])
        token = by_length[-1].ids[len(by_length[-1].ids) // 2]
        again = _Row(ids=(token,), types=(0,), text="")
        yield self._case("repeated token", [again.cut(wide), again.cut(max(wide // 2, 1))])
        lengths = (1, max(wide // 4, 1), max(wide // 2, 1), wide)
        ragged = [row.cut(length) for row, length in zip(mixed, lengths, strict=True)]
        yield self._case("ragged padding", ragged)
        yield self._case("padding on the other side", ragged, other_side=True)
        yield self._case("holes in the mask", [row.cut(wide) for row in mixed], holes=True)

    def edges(self) -> Iterator[Case]:
        for length in dict.fromkeys(self._sizes.sequence):
            for batch in dict.fromkeys(self._sizes.batch):
                count = max(self._sizes.batch[0], min(batch, _MOST_TOKENS // length, 64))
                rows = [row.cut(length) for row in islice(cycle(self._rows), count)]
                yield self._case(f"batch {count}, length {length}", rows)

    def _case(
        self, name: str, rows: Sequence[_Row], *, other_side: bool = False, holes: bool = False
    ) -> Case:
        """Rows padded to the longest; an engine with a least batch gets rows more than once."""
        most = max(self._sizes.batch[0], min(len(rows), self._sizes.batch[1]))
        rows = list(islice(cycle(rows), most))
        width = max(self._sizes.sequence[0], *map(_length, rows), 1)
        left = (self._spec.padding_side == "left") != other_side
        lengths = np.array([_length(row) for row in rows])[:, None]
        columns = np.arange(width)
        mask: Mask = columns >= width - lengths if left else columns < lengths
        ids, types = (
            _filled(mask, [getattr(row, which) for row in rows], filler)
            for which, filler in (
                ("ids", self._spec.pad_token_id),
                ("types", self._spec.pad_token_type_id),
            )
        )
        if holes:
            mask = mask & (columns % 3 != 1)
        arrays: Mapping[str, Array] = {
            "input_ids": ids,
            "attention_mask": mask.astype(np.int64),
            "token_type_ids": types,
        }
        feeds = {name: arrays[name] for name in self._spec.inputs}
        return Case(name=name, feeds=feeds, mask=mask, texts=tuple(row.text for row in rows))


def _length(row: _Row) -> int:
    return len(row.ids)


def _filled(mask: Mask, rows: Sequence[Sequence[int]], filler: int) -> NDArray[np.int64]:
    array = np.full(mask.shape, filler, np.int64)
    array[mask] = np.fromiter((value for row in rows for value in row), np.int64)
    return array
