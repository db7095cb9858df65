"""Timings arrive at the node they belong to; which numbers they are is not asserted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fuselage.errors import DeviceError, FeedError, GraphError
from fuselage.graph.model import Graph
from fuselage.proof.cost_model import measuring
from fuselage.proof.cost_model.counting import count
from fuselage.proof.cost_model.examine import examine, fit_shapes
from fuselage.proof.cost_model.measuring import measure
from fuselage.proof.cost_model.shape import CostShape, feeds_at, sizes_at
from fuselage.proof.cost_model.subject import Costed, open_file

from .conftest import Parse


@pytest.fixture
def path(block: Graph, tmp_path: Path) -> Path:
    """The block as a file."""
    return block.save(tmp_path / "block.onnx")[0]


def test_every_node_is_timed_at_every_shape(block: Graph, path: Path) -> None:
    shapes = [CostShape(1, 3), CostShape(2, 5)]
    found = measure(path, Graph.load(path), shapes, threads=1, rounds=2, seconds=0.0)
    assert [observation.shape for observation in found] == ["1x3", "2x5"]
    assert [observation.sizes for observation in found] == [
        {"batch": 1, "sequence": 3},
        {"batch": 2, "sequence": 5},
    ]
    for observation in found:
        assert observation.runs == 4  # two rounds of the least number of calls
        assert len(observation.nodes) == len(block.model.graph)
        assert None not in observation.nodes
        assert observation.whole > 0


def test_nodes_without_a_name_are_found_by_their_place(block: Graph, tmp_path: Path) -> None:
    for node in block.model.graph:
        node.name = "" if node.op_type == "MatMul" else node.name
    path = block.save(tmp_path / "unnamed.onnx")[0]
    (found,) = measure(path, Graph.load(path), [CostShape(1, 3)], threads=1, rounds=1, seconds=0)
    assert None not in found.nodes


def test_events_of_calls_are_told_apart(parse: Parse) -> None:
    graph = parse("g (float[batch] x) => (float[batch] y) { a = Abs(x)  y = Neg(a) }")

    def event(name: str, ts: int, dur: int, cat: str = "Node") -> dict[str, object]:
        return {"name": name, "cat": cat, "ts": ts, "dur": dur}

    events = [
        event("n_a_kernel_time", 10, 3),
        event("n_y_kernel_time", 15, 4),
        event("model_run", 9, 20, "Session"),
        event("other_kernel_time", 40, 9),
        event("n_y_kernel_time", 45, 6),
        event("model_run", 39, 20, "Session"),
    ]
    runs = measuring._runs(events, graph)
    assert runs == [[3e-6, 4e-6], [None, 6e-6]]
    assert measuring._quiet_nodes(runs) == [None, pytest.approx(4e-6)]


def test_the_first_run_of_each_shape_is_dropped() -> None:
    runs: list[list[float | None]] = [[float(at)] for at in range(5)]
    assert measuring._by_shape(runs, [2, 1]) == [[[1.0], [2.0]], [[4.0]]]
    with pytest.raises(DeviceError, match="kept 4 of 5 calls"):
        measuring._by_shape(runs[:4], [2, 1])


def test_feeds_stay_inside_the_tables_and_hide_nothing(block: Graph) -> None:
    feeds = feeds_at(block, CostShape(3, 50))
    assert feeds["ids"].shape == (3, 50)
    assert 0 <= feeds["ids"].min() <= feeds["ids"].max() < 11
    assert feeds["mask"].all()


def test_a_shape_that_does_not_run_is_refused(parse: Parse, tmp_path: Path) -> None:
    graph = parse(
        "g (float[batch, sequence] x) => (float[batch, sequence] y) { y = Add(x, w) }",
        w=np.ones((1, 4), np.float32),
    )
    path = graph.save(tmp_path / "fixed.onnx")[0]
    with pytest.raises(FeedError, match="shape 2x5: the graph does not run at it"):
        measure(path, graph, [CostShape(2, 5)], threads=1, rounds=1, seconds=0)


def test_a_file_that_is_no_graph_is_refused(block: Graph, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(DeviceError, match="ONNX Runtime cannot open it"):
        measure(path, block, [CostShape(1, 2)], threads=1, rounds=1, seconds=0)


@pytest.mark.parametrize("text", ["0x128", "8x0", "8", "8x", "axb", "-1x8", "8x128x3", "8x1+", ""])
def test_nonsense_shapes_are_refused(text: str) -> None:
    with pytest.raises(FeedError, match=r"expected BATCHxSEQUENCE of at least 1x1"):
        CostShape.parse(text)


def test_shapes_are_read_and_written() -> None:
    assert CostShape.parse("8x128") == CostShape(8, 128)
    assert CostShape.parse(" 2x1+127 ") == CostShape(2, 1, 127)
    assert [str(shape) for shape in fit_shapes()] == ["2x16", "16x16", "2x256"]
    assert [str(shape) for shape in fit_shapes(64)] == ["2x4", "16x4", "2x64"]


def test_sizes_follow_what_inputs_are_for(parse: Parse) -> None:
    graph = parse(
        "g (int64[b, s] ids) => (float[b, s, 4] y) { y = Gather(table, ids) }",
        table=np.ones((7, 4), np.float32),
    )
    assert sizes_at(graph, CostShape(3, 9)) == {"b": 3, "s": 9}


def test_the_whole_is_examined(path: Path) -> None:
    model = examine(
        open_file(path), CostShape(3, 20), measured=True, threads=1, rounds=1, seconds=0.0
    )
    assert model.observed is not None
    assert model.fitted is not None
    assert model.fitted.shapes == ("2x16", "16x16", "2x256")
    assert model.verdict is not None
    assert model.verdict.shape == "3x20"
    assert None not in model.predicted
    assert all(row.achieved is not None or not row.seconds for row in model.ranked)
    assert sum(row.share for row in model.ranked) == pytest.approx(1)
    products = [row for row in model.ranked if row.name.startswith("MatMul")]
    assert all(0 < (row.achieved or 0) <= 1 for row in products)  # a peak is at least what was seen


def test_the_shape_asked_for_never_fits_the_model(path: Path) -> None:
    asked = CostShape(2, 16)
    model = examine(open_file(path), asked, measured=True, threads=1, rounds=1, seconds=0.0)
    assert model.fitted is not None
    assert model.fitted.shapes == ("3x16", "16x16", "2x256")


def test_sizes_that_depend_on_the_data_are_named(parse: Parse, tmp_path: Path) -> None:
    graph = parse(
        "g (float[batch, 4] x) => (int64[2, found] y) { y = NonZero(x) }",
    )
    path = graph.save(tmp_path / "found.onnx")[0]
    with pytest.raises(GraphError, match=r"the costs depend on found, which no shape gives \(2x4"):
        examine(open_file(path), CostShape(2, 4))


def test_an_engine_of_a_gpu_is_not_timed_on_the_cpu(block: Graph, path: Path) -> None:
    engine = Costed(name="bundle", target="tensorrt", path=path, graph=block)
    with pytest.raises(DeviceError, match="tensorrt is not timed node by node, the CPU alone is"):
        examine(engine, CostShape(1, 2), measured=True)
    assert count(block).nodes
