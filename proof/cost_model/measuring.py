"""Time the nodes of a graph with ONNX Runtime's profiler, and the whole without it.

The session is opened as the engine opens it: the same threads, no spinning, no optimisation. Shapes
take turns, round after round, so that what else runs on the machine meets all of them, and calls
with and without the profiler alternate. Of a node's times, and of the calls', the least tenth
counts: what others do to a machine only ever adds, and mostly to few of many nodes.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...engines.ort.backend import PROVIDERS
from ...engines.ort.session import message, open_session, session_options
from ...errors import DeviceError, FeedError
from ...graph.model import Graph
from ...graph.tensors import Array
from .fitting import Observation
from .shape import CostShape, feeds_at, sizes_at

QUIET_SHARE = 0.1
_LEAST_CALLS, _MOST_CALLS = 2, 60
_SUFFIX = "_kernel_time"

Node = tuple[str, str]


def measure(
    path: Path,
    graph: Graph,
    shapes: Sequence[CostShape],
    *,
    threads: int = 0,
    rounds: int = 6,
    seconds: float = 0.25,
) -> list[Observation]:
    """Time every node at every shape.

    Args:
        path: the ONNX file, run as it is written, on the CPU.
        graph: the same file, read.
        shapes: to time.
        threads: intra-op threads, 0 for all physical cores.
        rounds: of all shapes.
        seconds: for a shape in a round; at least two calls and at most sixty.

    Returns:
        One observation a shape, in order.

    Raises:
        DeviceError: when ONNX Runtime cannot open the file.
        FeedError: when it cannot run a shape.
        CalibrationError: when an input would take more than a sample may.
    """
    feeds = [feeds_at(graph, shape) for shape in shapes]
    plain = _open(path, threads, None)
    for shape, feed in zip(shapes, feeds, strict=True):
        _run(plain, feed, shape)
    wholes: list[list[float]] = [[] for _ in shapes]
    nodes: list[list[list[float | None]]] = [[] for _ in shapes]
    for _ in range(max(1, rounds)):
        for index, timed in enumerate(_round(path, graph, plain, feeds, threads, seconds, wholes)):
            nodes[index] += timed
    return [
        Observation(
            str(shape), sizes_at(graph, shape), _quiet_nodes(timed), _quiet(whole), len(whole)
        )
        for shape, timed, whole in zip(shapes, nodes, wholes, strict=True)
    ]


def _round(
    path: Path,
    graph: Graph,
    plain: Any,
    feeds: Sequence[Mapping[str, Array]],
    threads: int,
    seconds: float,
    wholes: Sequence[list[float]],
) -> list[list[list[float | None]]]:
    """Time every shape once more: seconds of every node in every call of it."""
    with tempfile.TemporaryDirectory(prefix="fuselage-profile-") as folder:
        profiled = _open(path, threads, folder)
        calls = []
        for feed, whole in zip(feeds, wholes, strict=True):
            calls.append(_turn(plain, profiled, feed, seconds, whole))
        events = json.loads(Path(profiled.end_profiling()).read_bytes())
    return _by_shape(_runs(events, graph), calls)


def _by_shape(
    runs: Sequence[list[float | None]], calls: Sequence[int]
) -> list[list[list[float | None]]]:
    """Runs of each shape; each has one more than its calls, the first, which allocates.

    Raises:
        DeviceError: when the profiler, which keeps a million events, lost some.
    """
    wanted = sum(calls) + len(calls)
    if len(runs) != wanted:
        raise DeviceError(
            f"ONNX Runtime's profiler kept {len(runs)} of {wanted} calls; time fewer shapes, or "
            "each for a shorter time"
        )
    ends = np.cumsum(np.add(calls, 1))
    return [list(runs[end - count : end]) for end, count in zip(ends.tolist(), calls, strict=True)]


def _turn(
    plain: Any, profiled: Any, feed: Mapping[str, Array], seconds: float, whole: list[float]
) -> int:
    """Time calls for as long as a turn lasts; how many there were."""
    plain.run(None, feed)
    profiled.run(None, feed)
    started, calls = time.perf_counter(), 0
    while calls < _LEAST_CALLS or (calls < _MOST_CALLS and time.perf_counter() - started < seconds):
        before = time.perf_counter()
        plain.run(None, feed)
        whole.append(time.perf_counter() - before)
        profiled.run(None, feed)
        calls += 1
    return calls


def _runs(events: Sequence[Mapping[str, Any]], graph: Graph) -> list[list[float | None]]:
    """Seconds of the graph's nodes, one list a call.

    Events are written as they end, so those of a call come before its ``model_run``. Their times
    are cut to microseconds, so sorting by them would move the last node behind it.
    """
    nodes = [(node.name or "", node.op_type) for node in graph.model.graph]
    uses = Counter(name for name, _ in nodes)
    unique = {name: index for index, (name, _) in enumerate(nodes) if name and uses[name] == 1}
    runs: list[list[float | None]] = []
    current: list[float | None] = [None] * len(nodes)
    for event in events:
        if event.get("name") == "model_run":
            runs.append(current)
            current = [None] * len(nodes)
        elif event.get("cat") == "Node" and str(event.get("name", "")).endswith(_SUFFIX):
            index = _index(event, nodes, unique)
            if index is not None:
                current[index] = float(event["dur"]) * 1e-6
    return runs


def _index(
    event: Mapping[str, Any], nodes: Sequence[Node], unique: Mapping[str, int]
) -> int | None:
    """The node of an event: by its name, or by its place where it has none of its own."""
    name = str(event["name"]).removesuffix(_SUFFIX)
    if name in unique:
        return unique[name]
    arguments = event.get("args", {})
    place = int(arguments.get("node_index", -1))
    fits = 0 <= place < len(nodes) and nodes[place][1] == arguments.get("op_name")
    return place if fits else None


def _quiet(seconds: Sequence[float]) -> float:
    """The mean of the least tenth."""
    kept = max(1, round(len(seconds) * QUIET_SHARE))
    return float(np.sort(np.array(seconds))[:kept].mean())


def _quiet_nodes(calls: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The same for every node; None for one that did not run in every call."""
    return [
        None if None in times else _quiet([time for time in times if time is not None])
        for times in zip(*calls, strict=True)
    ]


def _open(path: Path, threads: int, profiles: str | None) -> Any:
    options = session_options(threads)
    if profiles is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(profiles) / "profile")
    try:
        return open_session(str(path), options, PROVIDERS["ort-cpu"], optimize=False)
    except Exception as error:  # each ONNX Runtime status is its own subclass of Exception
        raise DeviceError(f"{path}: ONNX Runtime cannot open it: {message(error)}") from error


def _run(session: Any, feed: Mapping[str, Array], shape: CostShape) -> None:
    try:
        session.run(None, feed)
    except Exception as error:  # each ONNX Runtime status is its own subclass of Exception
        raise FeedError(
            f"shape {shape}: the graph does not run at it: {message(error)}; name a shape it takes"
        ) from error
