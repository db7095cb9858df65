"""An engine of packed rows behind the interface of one that takes padded batches.

What it is fed and what it answers are those of the model, [batch, sequence]; rows are packed
inside, so everything that runs engines runs this one too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import FeedError
from ...graph.tensors import Array, Dim, Feeds, TensorSpec, check_feeds
from ..base import ENGINE_FACTS, Engine
from .batching import BUDGETS, CPU_BUDGET, GPU_BUDGET, Indices, Lengths
from .packing import PackedCall, RowLimits
from .row_cost import CPU_COST, GPU_COST, Choice, RowCost, cheapest, chosen

SEGMENTS, POSITIONS, SLOTS = "segment_ids", "position_ids", "slots"
ROWS, LENGTH, TEXTS = "rows", "length", "texts"
IDS, PADDING = "input_ids", "attention_mask"

WINDOW = 4096
"""Texts that are packed together; the next ones are not waited for."""

_SAMPLE = 256
"""Texts of a window by which the length of its rows is chosen."""


def is_packed(engine: Engine) -> bool:
    """Whether an engine takes packed rows."""
    return any(spec.name == SEGMENTS for spec in engine.inputs)


def opened(engine: Engine, folder: Path | None = None) -> Engine:
    """The engine, behind `PackedEngine` when it takes packed rows.

    Args:
        engine: open.
        folder: where its ``engine.json`` may have what a call costs.
    """
    return PackedEngine(engine, _kept_cost(folder)) if is_packed(engine) else engine


def _kept_cost(folder: Path | None) -> RowCost | None:
    if folder is None:
        return None
    try:
        facts = json.loads((folder / ENGINE_FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # the backend judges the file; a cost is no more than advice
    return RowCost.from_json(facts.get("row_cost")) if isinstance(facts, dict) else None


class PackedEngine(Engine):
    """Packs the texts of a padded batch into rows and unpacks the answers.

    Args:
        engine: takes the inputs of `passes/packed/layout.py`; owned and closed.
        cost: of its calls; None for the default of its target.

    Attributes:
        engine: as given.
        cost: as given, or the default.
        limits: of one call.
        fixed_row: tokens of a row, whatever it costs; None chooses by cost.
    """

    _notes: tuple[str, ...] = ()
    _chosen = ""

    def __init__(self, engine: Engine, cost: RowCost | None = None) -> None:
        self.engine = engine
        self.target, self.name = engine.target, engine.name
        self.passed_over = engine.passed_over
        own = (SEGMENTS, POSITIONS, SLOTS)
        kept = [spec for spec in engine.inputs if spec.name not in own]
        names = [spec.name for spec in kept]
        dtype = kept[0].dtype
        self.inputs = tuple(
            TensorSpec(name, dtype, ("batch", "sequence"))
            for name in (names[0], PADDING, *names[1:])
        )
        self.outputs = tuple(_padded_spec(spec) for spec in engine.outputs)
        is_cpu = engine.target in BUDGETS
        self.cost = cost or (CPU_COST if is_cpu else GPU_COST)
        self.limits = _limits(engine, (CPU_BUDGET if is_cpu else GPU_BUDGET).max_tokens)
        self.fixed_row: int | None = None
        self.notes = engine.notes
        self._plans: dict[bytes, PackedCall] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the engine, and how the last texts were run."""
        return (*self._notes, *([self._chosen] if self._chosen else []))

    @notes.setter
    def notes(self, notes: tuple[str, ...]) -> None:
        self._notes = tuple(note for note in notes if note != self._chosen)

    def choose(self, lengths: Lengths) -> Choice:
        """How texts of these lengths are run: rows of one length, or each text in a row of its own.

        Args:
            lengths: tokens of each text [texts]; of many, every n-th decides for all.

        Raises:
            FeedError: when one is longer than the engine takes.
        """
        if lengths.size and int(lengths.max()) > self.limits.max_length:
            raise FeedError(
                f"{self.target}: expected texts of at most {self.limits.max_length} tokens, got "
                f"{int(lengths.max())}; cut them, or build with a longer sequence"
            )
        row_length = self.fixed_row
        if row_length is None:
            sample = lengths[:: max(1, lengths.size // _SAMPLE)]
            found = cheapest(sample, self.limits, self.cost)
            if sample.size == lengths.size:
                return self._noted(found, lengths)
            row_length = found.row_length
        return self._noted(chosen(lengths, row_length, self.limits, self.cost), lengths)

    def _noted(self, choice: Choice, lengths: Lengths) -> Choice:
        padded = sum(call.tokens for call in choice.calls) / max(1, int(lengths.sum()))
        how = (
            f"texts share rows of {choice.row_length} tokens"
            if choice.row_length
            else "every text has a row of its own, because sharing does not pay here"
        )
        self._chosen = f"{self.target}: layout packed: {how} ({padded:.3f} computed tokens a token)"
        return choice

    def calls(self, lengths: Lengths) -> Iterator[PackedCall]:
        """The calls for any number of texts, a window at a time."""
        for start in range(0, lengths.size, WINDOW):
            for call in self.choose(lengths[start : start + WINDOW]).calls:
                yield replace(call, texts=call.texts + start)

    def groups(self, lengths: Lengths) -> list[Indices]:
        """The texts of each call; `run` packs such a group as it was planned here."""
        plans, groups = {}, []
        for call in self.calls(lengths):
            groups.append(call.texts)
            plans[lengths[call.texts].tobytes()] = replace(call, texts=np.arange(call.texts.size))
        self._plans = plans
        return groups

    def _planned(self, lengths: Lengths) -> Iterator[PackedCall]:
        plan = self._plans.get(lengths.astype(np.int64, copy=False).tobytes())
        return self.calls(lengths) if plan is None else iter((plan,))

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run a padded batch; see `Engine.run`.

        Rows without a token are answered by zeros, and so is padding.

        Raises:
            FeedError: also when a text is too long, or its tokens are not beside each other.
        """
        sizes = check_feeds(self.inputs, feeds)
        lengths = (feeds[PADDING] != 0).sum(1)
        real = np.flatnonzero(lengths)
        answers = {spec.name: _zeros(spec, sizes) for spec in self.outputs}
        for call in self._planned(lengths[real]):
            texts = real[call.texts]
            own = {name: feed[texts] for name, feed in feeds.items()}
            for name, values in self.run_call(own, call).items():
                answers[name][texts] = values
        return answers

    def run_call(self, feeds: Feeds, call: PackedCall) -> dict[str, Array]:
        """Run the texts of one call.

        Args:
            feeds: padded, the texts in the order of the call.
            call: of `calls`, for texts of just these lengths.

        Returns:
            For each output one entry a text, padded with zeros like the feeds.

        Raises:
            FeedError: when the tokens of a text are not beside each other.
        """
        mask = feeds[PADDING] != 0
        _check_runs(mask, self.target)
        packed, at = self._packed(feeds, mask, call)
        answers = self.engine.run(packed)
        unpacked: dict[str, Array] = {}
        for spec in self.engine.outputs:
            values = answers[spec.name]
            if spec.dims[0] == TEXTS:
                width = packed[SLOTS].size
                unpacked[spec.name] = values[call.rows * width + call.slots]
                continue
            padded = np.zeros((*mask.shape, *values.shape[2:]), values.dtype)
            padded[mask] = values.reshape(-1, *values.shape[2:])[at]
            unpacked[spec.name] = padded
        return unpacked

    def _packed(
        self, feeds: Feeds, mask: NDArray[np.bool_], call: PackedCall
    ) -> tuple[dict[str, Array], Indices]:
        """The feeds of the rows, and where in them each token stands."""
        lengths = mask.sum(1)
        positions = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        at = np.repeat(call.rows * call.length + call.starts, lengths) + positions
        packed: dict[str, Array] = {SLOTS: np.arange(1, self._slots(call.width) + 1)}
        for spec in self.engine.inputs:
            if spec.name == SLOTS:
                continue
            flat = np.zeros(call.tokens, np.int64)
            if spec.name == SEGMENTS:
                flat[at] = np.repeat(call.slots + 1, lengths)
            elif spec.name == POSITIONS:
                flat[at] = positions
            else:
                flat[at] = feeds[spec.name][mask]
            packed[spec.name] = flat.reshape(call.height, call.length)
        dtypes = {spec.name: spec.dtype for spec in self.engine.inputs}
        return {name: feed.astype(dtypes[name], copy=False) for name, feed in packed.items()}, at

    def _slots(self, width: int) -> int:
        """Few numbers on a GPU, where each shape has a graph of its own."""
        if not self.engine.profiles:
            return width
        return min(self.limits.max_slots, -(-width // 8) * 8)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def _padded_spec(spec: TensorSpec) -> TensorSpec:
    names: dict[Dim, Dim] = {ROWS: "batch", LENGTH: "sequence", TEXTS: "batch"}
    return TensorSpec(spec.name, spec.dtype, tuple(names.get(dim, dim) for dim in spec.dims))


def _zeros(spec: TensorSpec, sizes: dict[str, int]) -> Array:
    return np.zeros([sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims], spec.dtype)


def _limits(engine: Engine, max_tokens: int) -> RowLimits:
    """What one call may be: by its target, and by the sizes it was built for."""
    if not engine.profiles:
        return RowLimits(max_tokens=max_tokens)
    axes = engine.profiles[-1].axes
    return RowLimits(
        max_tokens=max_tokens,
        max_rows=axes[ROWS][2],
        max_length=axes[LENGTH][2],
        max_slots=axes[SLOTS][2],
    )


def _check_runs(mask: NDArray[np.bool_], target: str) -> None:
    begins = mask[:, 0].astype(np.intp) + (mask[:, 1:] & ~mask[:, :-1]).sum(1)
    apart = np.flatnonzero(begins > 1)
    if apart.size:
        raise FeedError(
            f"{target}: feed {PADDING!r}: expected the tokens of each text beside each other, row "
            f"{int(apart[0])} has padding between them; leave the padding out"
        )
