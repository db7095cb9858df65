"""One pass over batches: statistics of every planned tensor, interrupted and taken up at will."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ...graph.model import Graph
from ..session import GraphSession
from ..text.batches import Batch
from .interruption import Interruption
from .profile import TensorProfile
from .profile_store import SCHEMA, Collected, Profiles, ProfileStore
from .reservoir import Keys, row_keys

Progress = Callable[[int, int], None]
"""Called with (texts done, texts in all) after every batch."""

_SAVE_SECONDS = 10.0
_MOST_SAVING = 0.05
"""Part of the time that may be spent on saving."""


@dataclass(frozen=True, kw_only=True)
class Taps:
    """What is kept of a graph.

    Attributes:
        graph: the float graph.
        names: of its tensors.
        capacity: rows kept of each.
        seeds: of the rows, one for each part of the texts.
        threads: CPU threads, 0 for all physical cores.
    """

    graph: Graph
    names: tuple[str, ...]
    capacity: int
    seeds: tuple[int, ...] = (0,)
    threads: int = 0


def collect(
    taps: Taps,
    parts: Sequence[Sequence[Batch]],
    *,
    store: ProfileStore | None = None,
    on_progress: Progress | None = None,
) -> tuple[Profiles, ...]:
    """Run all batches and merge what each tensor held, part by part.

    With a store, progress is saved every ten seconds and before SIGINT or SIGTERM end the process;
    the next run goes on from there, and its result is the same to the last bit. A run that was
    finished before runs nothing.

    Args:
        taps: what to keep.
        parts: batches of each part of the texts, run in this order.
        store: where statistics are kept; None to keep none, and to leave signals alone.
        on_progress: told after each batch.

    Raises:
        CalibrationError: when an activation is NaN or infinite.
    """
    ends = [0, *accumulate(len(batch.indices) for part in parts for batch in part)]
    key = None if store is None else _key(taps, parts)
    found = _saved(store, key, taps, parts, ends) or Collected(parts=tuple({} for _ in parts))
    if found.done == len(ends) - 1:
        if on_progress is not None:
            on_progress(ends[-1], ends[-1])
        return found.parts
    saving = nullcontext() if store is None or key is None else _Saving(store, key, found)
    with GraphSession(taps.graph, taps.names, taps.threads) as session:
        while found.done < len(ends) - 1:  # again when a handler of the caller lets it go on
            with saving as stops:
                for number, batch in _left(parts, found.done):
                    _add(session, taps, batch, number, found.parts[number])
                    found.done += 1
                    if on_progress is not None:
                        on_progress(ends[found.done], ends[-1])
                    if stops is not None and stops():
                        break
    return found.parts


class _Saving:
    """Keeps what was found now and then, when the run is interrupted, and at the end."""

    def __init__(self, store: ProfileStore, key: str, found: Collected) -> None:
        self._store, self._key, self._found = store, key, found
        self._interruption = Interruption()
        self._next = time.monotonic() + _SAVE_SECONDS

    def __enter__(self) -> Callable[[], bool]:
        self._interruption.__enter__()
        return self._stops

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._store.save(self._key, self._found)
        finally:
            self._interruption.__exit__()

    def _stops(self) -> bool:
        """Whether to leave the loop; called between batches, when all tensors saw the same."""
        start = time.monotonic()
        if start >= self._next:
            self._store.save(self._key, self._found)
            end = time.monotonic()
            self._next = end + max(_SAVE_SECONDS, (end - start) / _MOST_SAVING)
        return self._interruption.pending is not None


def _add(
    session: GraphSession, taps: Taps, batch: Batch, part: int, found: dict[str, TensorProfile]
) -> None:
    outputs = session.run(batch.feeds, taps.names)
    keys, ids = _keys(batch, taps.seeds[part]), batch.feeds.get("input_ids")
    for name in taps.names:
        before = found.get(name)
        seen = TensorProfile.of(name, outputs.pop(name), keys, taps.capacity, before, ids)
        found[name] = seen if before is None else before.merge(seen)


def _left(parts: Sequence[Sequence[Batch]], done: int) -> Iterator[tuple[int, Batch]]:
    for number, part in enumerate(parts):
        for at in range(min(done, len(part)), len(part)):
            yield number, part[at]
        done = max(0, done - len(part))


def _saved(
    store: ProfileStore | None,
    key: str | None,
    taps: Taps,
    parts: Sequence[Sequence[Batch]],
    ends: Sequence[int],
) -> Collected | None:
    if store is None or key is None:
        return None
    found = store.load(key, taps.names, [len(part) for part in parts])
    if found is None:
        return None
    if found.done == len(ends) - 1:
        store.note(f"statistics of {ends[-1]} texts were there from an earlier run: none was run")
    else:
        store.note(
            f"calibration goes on behind text {ends[found.done]} of {ends[-1]}, where an earlier "
            "run was interrupted"
        )
    return found


def _key(taps: Taps, parts: Sequence[Sequence[Batch]]) -> str:
    """sha256 over all that decides the statistics: graph, token batches, taps and runtime."""
    import onnxruntime as ort

    tokens = hashlib.sha256()
    for part in parts:
        tokens.update(f"part of {len(part)}\n".encode())
        for batch in part:
            tokens.update(f"{batch.indices}\n".encode())
            for name, array in batch.feeds.items():
                tokens.update(f"{name} {array.dtype} {array.shape}\n".encode())
                tokens.update(np.ascontiguousarray(array).data)
    facts = {
        "schema": SCHEMA,
        "onnxruntime": ort.__version__,
        "graph": taps.graph.digest(),
        "tokens": tokens.hexdigest(),
        "tensors": taps.names,
        "rows": taps.capacity,
        "seeds": taps.seeds,
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _keys(batch: Batch, seed: int) -> Keys:
    """One key a token of a batch, in the order of its rows."""
    length = batch.tokens // len(batch.indices)
    texts = np.repeat(np.array(batch.indices, np.int64), length)
    return row_keys(texts, np.tile(np.arange(length), len(batch.indices)), seed)
