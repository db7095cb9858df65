"""Rows that texts share: the graph, the sizes of its engines, and proof that texts stay apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from ..engines.base import ENGINE_FACTS, Engine, EngineArtifact
from ..engines.strict_json import canonical_json
from ..engines.text.packed_engine import LENGTH, ROWS, SLOTS, PackedEngine
from ..engines.text.row_cost import measure
from ..errors import BuildError
from ..graph.tensors import Array, Feeds, ShapeProfile
from .profiles.plan import BATCH, SEQUENCE, ShapePlan
from .recipe import Layout

if TYPE_CHECKING:
    from ..calibration.session import GraphSession
    from ..graph.model import Graph

TOLERANCE = 2e-5
"""Largest difference of an answer, relative to the largest answer or 1; float32 graphs have 1e-6.
Quantised ones round alike, because every operator but attention sees each token by itself."""

_SLOTS = (1, 8, 64)
_CHECKED = (7, 1, 12, 5, 3, 17, 2)
"""Tokens of the texts that are compared: odd, some alone in their row, some among others."""
_ROW = 24
_MEASURED = ((1, 32), (1, 128), (4, 64), (4, 128), (1, 256), (2, 256))


def parse_layout(text: str) -> Layout:
    """Read the value of ``--layout``.

    Raises:
        BuildError: when it is another word.
    """
    for known in get_args(Layout):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise BuildError(f"layout {text!r}: expected one of {', '.join(get_args(Layout))}")


def pack_graph(graph: Graph, on_note: Callable[[str], None] | None = None) -> Graph:
    """The graph with packed inputs, held to the numbers of the one it was made from.

    Args:
        graph: canonical, or that with Q/DQ.
        on_note: told what was compared; None does not compare.

    Raises:
        PassError: when it cannot be packed, with the node and the reason.
        BuildError: when a text is answered otherwise in company than alone.
    """
    from ..passes.normalize.clean_up import CleanUp
    from ..passes.normalize.infer_shapes import InferShapes, RestoreOutputs
    from ..passes.packed.pack_rows import PackRows
    from ..passes.pipeline import PassPipeline

    steps = (PackRows(), InferShapes(), CleanUp(), RestoreOutputs())
    packed = PassPipeline(steps).run(graph)
    if on_note is not None:
        difference = check_packed(graph, packed)
        on_note(f"packed rows answer like single texts within {difference:.1e}")
    return packed


def check_packed(graph: Graph, packed: Graph) -> float:
    """Answer texts alone and in shared rows; the largest difference.

    Raises:
        BuildError: when it exceeds `TOLERANCE`.
    """
    from ..calibration.session import GraphSession

    ids, types = _tokens(graph)
    with GraphSession(graph) as alone, GraphSession(packed) as together:
        engine = PackedEngine(GraphEngine(together, packed))
        engine.fixed_row = _ROW
        answers = engine.run(_feeds(graph, ids, types, max(_CHECKED)))
        worst = 0.0
        for index, size in enumerate(_CHECKED):
            own = _feeds(graph, ids[index : index + 1], types[index : index + 1], size)
            for name, wanted in alone.run(own).items():
                got = answers[name][index : index + 1]
                got = got[:, :size] if got.shape != wanted.shape else got
                scale = max(1.0, float(np.abs(wanted).max()))
                worst = max(worst, float(np.abs(np.subtract(got, wanted)).max()) / scale)
    if not worst <= TOLERANCE:
        raise BuildError(
            f"packed rows: a text is answered otherwise in company than alone, by {worst:.1e} "
            f"where {TOLERANCE:.0e} is expected; build it with --layout padded"
        )
    return worst


def _tokens(graph: Graph) -> tuple[list[Array], list[Array]]:
    rows = min(_table_rows(graph, "input_ids"), 1 << 15)
    kinds = min(_table_rows(graph, "token_type_ids"), 2)
    random = np.random.default_rng(7)
    ids: list[Array] = [random.integers(rows // 4, rows, size) for size in _CHECKED]
    return ids, [random.integers(0, kinds, size) for size in _CHECKED]


def _table_rows(graph: Graph, name: str) -> int:
    """Rows of the table that an input looks up; 1 without one."""
    for node in graph.model.graph:
        if node.op_type == "Gather" and len(node.inputs) > 1 and node.inputs[0] is not None:
            index, table = node.inputs[1], node.inputs[0]
            if index is not None and index.name == name and table.shape is not None:
                rows = table.shape[0]
                return rows if isinstance(rows, int) else 1
    return 1


def _feeds(graph: Graph, ids: list[Array], types: list[Array], width: int) -> dict[str, Array]:
    def padded(texts: list[Array]) -> Array:
        rows = [np.pad(text[:width], (0, width - len(text[:width]))) for text in texts]
        return np.array(rows, np.int64)

    ones: list[Array] = [np.ones(len(text), np.int64) for text in ids]
    known = {"input_ids": ids, "attention_mask": ones, "token_type_ids": types}
    return {spec.name: padded(known[spec.name]) for spec in graph.inputs}


class GraphEngine(Engine):
    """A session on a graph as an engine, so that rows can be packed for it.

    Args:
        session: on the graph; the caller closes it.
        graph: names the dims of the outputs.
    """

    target = "ort-cpu"

    def __init__(self, session: GraphSession, graph: Graph) -> None:
        self._session = session
        self.inputs, self.outputs = graph.inputs, graph.outputs

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once."""
        return self._session.run(feeds)

    def close(self) -> None:
        """Leave the session to its owner."""


def packed_profile(profile: ShapeProfile) -> ShapeProfile:
    """The sizes of rows for those of padded batches."""
    return ShapeProfile({ROWS: profile.axes[BATCH], LENGTH: profile.axes[SEQUENCE], SLOTS: _SLOTS})


def packed_shapes(shapes: ShapePlan) -> tuple[ShapeProfile, tuple[ShapeProfile, ...]]:
    """The whole range and the profiles of an engine of packed rows: one, as rows are alike."""
    whole = packed_profile(shapes.whole)
    return whole, (whole,)


def keep_cost(engine: Engine, artifact: EngineArtifact, folder: Path) -> EngineArtifact:
    """Measure what a call costs, and keep it in ``engine.json``.

    Args:
        engine: open, of packed rows.
        artifact: of the engine.
        folder: of the engine.
    """
    longest = engine.profiles[-1].axes[LENGTH][2] if engine.profiles else None

    def run(height: int, length: int) -> object:
        square = np.ones((height, length), np.int64)
        positions = square * (np.arange(length) % 32)
        segments = square * (np.arange(length) // 32 + 1)
        known = {"segment_ids": segments, "position_ids": positions, "slots": np.arange(1, 9)}
        return engine.run(
            {
                spec.name: known.get(spec.name, square * (spec.name == "input_ids")).astype(
                    spec.dtype
                )
                for spec in engine.inputs
            }
        )

    sizes = [size for size in _MEASURED if longest is None or size[1] <= longest]
    clock = time.perf_counter if engine.profiles else time.process_time
    facts = {**artifact.facts, "row_cost": measure(run, sizes, clock).to_json()}
    (folder / ENGINE_FACTS).write_text(canonical_json(facts), encoding="utf-8")
    return EngineArtifact(target=artifact.target, files=artifact.files, facts=facts)
