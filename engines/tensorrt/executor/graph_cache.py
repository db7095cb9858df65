"""The CUDA graphs of one lane: recorded once a shape has come back, evicted when unused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from ....errors import DeviceError
from ..cuda import Cuda, DeviceLostError

Shape = tuple[int, ...]
Key = tuple[int, tuple[int, ...], int]
"""Profile, sizes of the dynamic axes, slot: what the addresses and kernels of a run depend on."""

_CANDIDATES_A_GRAPH = 4
"""Shapes that are being counted, for each graph that may be kept."""


@dataclass(slots=True)
class Entry:
    """What is known of one key.

    Attributes:
        hits: calls since it was last forgotten.
        executable: the graph to launch; None until one is recorded.
        outputs: shape of every output the graph writes.
        refused: whether recording failed; it is not tried again.
    """

    hits: int = 0
    executable: int | None = None
    outputs: Mapping[str, Shape] | None = None
    refused: bool = False


class GraphCache:
    """Least recently used graphs, bounded. Not thread-safe.

    Args:
        cuda: the CUDA facade.
        limit: graphs to keep; 0 records none.
        after: calls of one key before its graph is recorded.
        report: told why a graph could not be recorded, each reason once.

    Attributes:
        captures: graphs recorded so far.
        evictions: graphs dropped for others or because their buffers were replaced.
        refusals: keys that run without a graph because recording failed.
    """

    def __init__(
        self, cuda: Cuda, *, limit: int, after: int, report: Callable[[str], None]
    ) -> None:
        self.captures = 0
        self.evictions = 0
        self.refusals = 0
        self._report = report
        self._cuda = cuda
        self._limit = limit
        self._after = after
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._graphs: OrderedDict[Key, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    def find(self, key: Key) -> Entry | None:
        """The entry whose graph runs this key, or None when there is no graph."""
        entry = self._graphs.get(key)
        if entry is not None:
            self._graphs.move_to_end(key)
        return entry

    def due(self, key: Key) -> bool:
        """Count a call that ran without a graph; whether one should be recorded now."""
        if not self._limit:
            return False
        entry = self._entries.setdefault(key, Entry())
        self._entries.move_to_end(key)
        entry.hits += 1
        while len(self._entries) > _CANDIDATES_A_GRAPH * self._limit:
            self._entries.popitem(last=False)
        return entry.hits >= self._after and not entry.refused

    def capture(
        self,
        key: Key,
        stream: int,
        enqueue: Callable[[int], None],
        outputs: Mapping[str, Shape],
    ) -> None:
        """Record a run; a failure is reported, and the key goes on without a graph.

        Nothing may be queued on the stream.

        Args:
            key: what the run depends on.
            stream: an ordinary stream, usable afterwards in any case.
            enqueue: queues the run on a stream.
            outputs: shape of every output.

        Raises:
            DeviceLostError: when the GPU is gone.
        """
        entry = self._entries.setdefault(key, Entry())
        try:
            entry.executable = _record(self._cuda, stream, enqueue)
        except DeviceLostError:
            raise
        except DeviceError as error:
            entry.refused = True
            # Both CUDA's own calls and TensorRT's leave the error behind for the next call.
            self._cuda.forget_error()
            self._cuda.forget_error()
            self.refusals += 1
            self._report(f"some shapes run without a CUDA graph: {error}")
            return
        entry.outputs = outputs
        self._entries.pop(key, None)
        self._graphs[key] = entry
        self.captures += 1
        while len(self._graphs) > self._limit:
            self._drop(next(iter(self._graphs)))

    def forget(self, slot: int) -> None:
        """Drop what was recorded for a slot whose buffers are others now."""
        for key in [key for key in self._graphs if key[-1] == slot]:
            self._drop(key)

    def close(self) -> None:
        """Drop everything."""
        for key in tuple(self._graphs):
            self._drop(key)

    def _drop(self, key: Key) -> None:
        entry = self._graphs.pop(key)
        self.evictions += 1
        if entry.executable is not None:
            with suppress(DeviceError):
                self._cuda.destroy_executable(entry.executable)


def _record(cuda: Cuda, stream: int, enqueue: Callable[[int], None]) -> int:
    cuda.begin_capture(stream)
    try:
        enqueue(stream)
    except BaseException:
        # The stream records until told otherwise; what it recorded is of no use.
        with suppress(DeviceError):
            cuda.destroy_graph(cuda.end_capture(stream))
        raise
    graph = cuda.end_capture(stream)
    try:
        return cuda.instantiate(graph)
    finally:
        with suppress(DeviceError):
            cuda.destroy_graph(graph)
