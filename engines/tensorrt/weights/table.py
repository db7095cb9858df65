"""Weights of a plan that are not in it: where in the bundle's graph they are, and in what type.

Beside the plan lie ``engine.onnx``, the graph it was parsed from without its weights, and, where a
weight has no equal in the bundle's graph, ``engine.weights``. The table in ``engine.json`` has the
place and the sha256 of each weight, so one from another graph is never taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import BundleError
from ....graph.tensors import Array

if TYPE_CHECKING:
    from ....graph.model import Graph

STUB = "engine.onnx"
OWN = "engine.weights"
GRAPH_WEIGHTS = "model.weights"
"""Beside the bundle's canonical graph."""


def _half(array: Array) -> Array:
    with np.errstate(over="ignore"):
        return array.astype(np.float16)


def _bfloat16(array: Array) -> Array:
    """The upper half of each number, rounded to nearest, ties to even; as uint16."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


_CASTS: Mapping[str, Callable[[Array], Array]] = {"float16": _half, "bfloat16": _bfloat16}
"""What lowering makes of a float32 weight."""


@dataclass(frozen=True, kw_only=True)
class PlanWeights:
    """What a plan is filled with.

    Attributes:
        stub: bytes of the graph without its weights.
        arrays: name in that graph -> C-contiguous values; bfloat16 as uint16.
    """

    stub: bytes
    arrays: Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class WeightEntry:
    """Where one weight is.

    Attributes:
        name: in the graph the plan was parsed from.
        cast: what is made of the bytes: ``float16``, ``bfloat16``, or empty to take them as they
            are.
        shared: whether they are in the bundle's graph, not beside the plan.
        offset: of the first byte there.
        bytes: there.
        sha256: of the weight.
    """

    name: str
    cast: str
    shared: bool
    offset: int
    bytes: int
    sha256: str

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> WeightEntry:
        """Read one back.

        Raises:
            KeyError, TypeError, ValueError: when it has another form.
        """
        kinds = {"name": str, "cast": str, "shared": bool, "offset": int, "bytes": int}
        for key, kind in (*kinds.items(), ("sha256", str)):
            if type(entry[key]) is not kind:
                raise ValueError(f"{key}: expected {kind.__name__}, got {entry[key]!r:.40}")
        found = cls(**entry)
        if found.offset < 0 or found.bytes < 0 or found.cast not in ("", *_CASTS):
            raise ValueError(f"weight {found.name!r}: no such place or type")
        return found


def write_stub(graph: Graph, folder: Path) -> None:
    """Write the graph without its weights, which says what may be replaced."""
    from ....graph.weights import detach_weights

    (folder / STUB).write_bytes(detach_weights(graph.model).graph)


def write_table(graph: Graph, source: Graph | None, folder: Path) -> list[dict[str, Any]]:
    """Find each weight of a lowered graph in the bundle's graph, and keep the others beside it.

    Args:
        graph: that the plan was parsed from.
        source: the bundle's graph, as read from its files; None when there is none.
        folder: of the engine.

    Returns:
        The table, for ``engine.json``.
    """
    from ....graph.weights import detach_weights

    places = {} if source is None else dict(_places(source))
    table, own = [], bytearray()
    for name, array in detach_weights(graph.model).weights.items():
        content = array.tobytes()
        sha = hashlib.sha256(content).hexdigest()
        cast, offset, size = places.get(sha, ("", len(own), len(content)))
        shared = sha in places
        if not shared:
            own += content
        entry = WeightEntry(
            name=name, cast=cast, shared=shared, offset=offset, bytes=size, sha256=sha
        )
        table.append(dict(vars(entry)))
    if own:
        (folder / OWN).write_bytes(own)
    return table


def weights_of(graph: Graph) -> PlanWeights:
    """What a plan of this graph is filled with."""
    from ....graph.weights import detach_weights

    detached = detach_weights(graph.model)
    return PlanWeights(stub=detached.graph, arrays=detached.weights)


def read_weights(folder: Path, table: tuple[WeightEntry, ...], source: Path) -> PlanWeights:
    """The weights of a stripped plan.

    Args:
        folder: of the engine.
        table: from its facts.
        source: the bundle's canonical graph.

    Raises:
        BundleError: when a file is missing, or holds other weights than the plan was built with.
    """
    shared = _opened(source.with_name(GRAPH_WEIGHTS)) if any(e.shared for e in table) else None
    own = _opened(folder / OWN) if any(not e.shared for e in table) else None
    arrays = {}
    for entry in table:
        file = shared if entry.shared else own
        assert file is not None
        arrays[entry.name] = _read(file, entry, source if entry.shared else folder / OWN)
    try:
        stub = (folder / STUB).read_bytes()
    except OSError as error:
        raise BundleError(f"{folder / STUB}: cannot be read ({error.strerror}); rebuild") from error
    return PlanWeights(stub=stub, arrays=arrays)


def _read(file: Array, entry: WeightEntry, where: Path) -> Array:
    content = np.ascontiguousarray(file[entry.offset : entry.offset + entry.bytes])
    if entry.cast and not content.size % 4:
        content = _CASTS[entry.cast](content.view(np.float32))
    if hashlib.sha256(content.tobytes()).hexdigest() != entry.sha256:
        raise BundleError(
            f"{where}: expected the weight {entry.name!r} that the plan was built with, of sha256 "
            f"{entry.sha256[:12]}..., got other bytes; the plan and the graph are of different "
            "builds, copy the bundle again or rebuild it"
        )
    return content


def _opened(path: Path) -> Array:
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path}: the plan was built without its weights, which are here; it cannot be read "
            f"({error}); copy the bundle again or rebuild it"
        ) from error


def _places(source: Graph) -> Iterator[tuple[str, tuple[str, int, int]]]:
    """sha256 of a weight, as it is and cast -> how to make it, and its bytes in the file."""
    import onnx_ir as ir

    for value in source.model.graph.initializers.values():
        held = value.const_value
        if not isinstance(held, ir.ExternalTensor) or held.offset is None:
            continue
        array = np.ascontiguousarray(held.numpy())
        place = (held.offset, held.nbytes)
        yield hashlib.sha256(array.tobytes()).hexdigest(), ("", *place)
        if held.dtype == ir.DataType.FLOAT:
            for cast, convert in _CASTS.items():
                yield hashlib.sha256(convert(array).tobytes()).hexdigest(), (cast, *place)
