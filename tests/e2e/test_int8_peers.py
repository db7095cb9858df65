"""The parts of the INT8 comparison that need no peer: feeds, judge, protocol, race, tables."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import int8_peers
import numpy as np
import onnx_ir as ir
import pytest
from int8 import own, race, worker
from int8.environments import ENVIRONMENTS, Environment, ask
from int8.judge import cosines, embeddings, facts, hidden_state, judge, spearman, sqnr_db
from int8.methods import METHODS, Method
from int8.tables import accuracy_table, failures, replace_section, section_of

ROWS = [np.arange(1, length + 1) for length in (3, 2, 3, 5, 2, 3)]

MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
encoder (int64[batch, sequence] input_ids) => (float[batch, 4] sentence_embedding)
<float[8, 4] table = {
    0, 0, 0, 0,  1, 0, 2, 1,  0, 3, 1, 1,  2, 2, 0, 1,
    1, 1, 5, 0,  0, 1, 0, 2,  3, 0, 1, 1,  1, 2, 3, 5},
 float[4] gain = {1, 1, 1, 1}, float scale = {0.05}, int8 zero = {0}, int64[1] axis = {1}>
{
    rows = Gather (table, input_ids)
    normed = LayerNormalization <axis = -1> (rows, gain)
    QDQ
    sentence_embedding = ReduceMean <keepdims = 0> (read, axis)
}
"""
FLOAT = "read = Identity (normed)"
QUANTIZED = """quantized = QuantizeLinear (normed, scale, zero)
    read = DequantizeLinear (quantized, scale, zero)"""


def model(between: str) -> ir.Model:
    return ir.from_onnx_text(MODEL.replace("QDQ", between))


def stored(path: Path, rows: list[np.ndarray], **more: np.ndarray) -> Path:
    np.savez(path, ids=np.concatenate(rows), lengths=np.array([len(row) for row in rows]), **more)
    return path


def test_rows_survive_the_file(tmp_path: Path) -> None:
    got = worker.token_rows(stored(tmp_path / "texts.npz", ROWS))
    assert [row.tolist() for row in got] == [row.tolist() for row in ROWS]


def test_batches_by_length_have_no_padding() -> None:
    batches = list(worker.by_length([*ROWS, *[np.array([7, 7])] * 40]))
    assert [batch.shape for batch in batches] == [(16, 2), (16, 2), (10, 2), (3, 3), (1, 5)]
    assert all(batch.all() for batch in batches)


def test_padded_batches_have_one_shape_and_lose_nothing() -> None:
    batches = list(worker.padded([*ROWS, *ROWS]))
    assert [batch.shape for batch in batches] == [(4, 5)] * 3
    assert sum(np.count_nonzero(batch) for batch in batches) == 2 * sum(map(len, ROWS))


def test_reader_masks_the_padding_and_takes_ranges(tmp_path: Path) -> None:
    texts = str(stored(tmp_path / "texts.npz", ROWS))
    reader = worker.reader_of({"texts": texts, "feed": "padded", "limit": 2})
    assert len(reader) == 1
    assert reader.get_first()["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert reader.get_next() is not None
    assert reader.get_next() is None
    reader.set_range(0, 1)
    assert reader.get_next() is not None


def test_products_of_two_activations_are_left_out(tmp_path: Path) -> None:
    graph = ir.from_onnx_text("""
    <ir_version: 10, opset_import: ["" : 20]>
    products (float[2, 2] x) => (float[2, 2] z) <float[2, 2] w = {1, 2, 3, 4}>
    {
        [linear] y = MatMul (x, w)
        [attention] z = MatMul (y, x)
    }""")
    ir.save(graph, tmp_path / "model.onnx")
    source = str(tmp_path / "model.onnx")
    names = [node.name for node in ir.load(source).graph]
    assert worker.excluded(source, {"linears": True}) == names[1:]
    assert worker.excluded(source, {"exclude": ["pool"]}) == ["pool"]


def request(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"tool": "fake", "out": str(tmp_path / "new" / "model.onnx"), "packages": [], **more}


def test_worker_tells_time_and_memory(tmp_path: Path) -> None:
    def fake(_: object) -> Callable[[], None]:
        return lambda: time.sleep(0.01 * int(np.ones(10_000_000).max()))

    answer = worker.answer(request(tmp_path, packages=["numpy"]), {"fake": fake})
    assert answer["seconds"] >= 0.01
    assert 0 < answer["cpu_seconds"] < 60
    assert 70 < answer["peak_mb"] < 200
    assert answer["versions"] == {"numpy": np.__version__}
    assert (tmp_path / "new").is_dir()


def test_worker_answers_for_a_tool_that_exits(tmp_path: Path) -> None:
    def fake(_: object) -> Callable[[], None]:
        raise SystemExit("no\n  licence")

    answer = worker.answer(request(tmp_path), {"fake": fake})
    assert answer == {"error": "SystemExit: no licence", "versions": {}}


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("echo noise; echo '{\"seconds\": 1.5}'", {"seconds": 1.5}),
        (
            "echo trace >&2; echo why >&2; exit 3",
            {"error": "the process ended with status 3: why"},
        ),
        ("exec sleep 9", {"error": "no result in 0.5 s"}),
    ],
)
def test_ask_reads_the_last_line(tmp_path: Path, body: str, answer: dict[str, Any]) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    assert ask(python, "int8.worker", {"tool": "fake"}, timeout=0.5) == answer


def test_environment_is_made_again_when_its_packages_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr("venv.create", lambda folder, **_: folder.mkdir(exist_ok=True))
    monkeypatch.setattr("subprocess.run", lambda command, **_: commands.append(command[5:]))
    Environment(packages=("a==1",), shown=()).python(tmp_path)
    Environment(packages=("a==1",), shown=()).python(tmp_path)
    Environment(packages=("a==1",), alone=("b==2",), shown=()).python(tmp_path)
    assert commands == [["a==1"], ["a==1"], ["--no-deps", "b==2"]]


def test_metrics_on_known_numbers() -> None:
    left, right = np.eye(3)[[0, 0, 0]], np.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 2]])
    assert cosines(left, right) == pytest.approx([1, np.sqrt(0.5), 0])
    assert spearman(left, right, np.array([5, 3, 1])) == pytest.approx(100)
    assert spearman(left, right, np.array([1, 3, 5])) == pytest.approx(-100)
    assert sqnr_db(np.ones(50), np.full(50, 1.1)) == pytest.approx(20)


def test_hidden_state_is_what_the_pooling_reads() -> None:
    assert hidden_state(model(FLOAT).graph).name == "normed"
    assert hidden_state(model(QUANTIZED).graph).name == "read"


def test_hidden_state_needs_a_norm() -> None:
    graph = ir.from_onnx_text("""
    <ir_version: 10, opset_import: ["" : 20]>
    bare (float[2] x) => (float[2] sentence_embedding) { sentence_embedding = Neg (x) }""").graph
    with pytest.raises(ValueError, match="no LayerNormalization leads to"):
        hidden_state(graph)


def test_answers_are_in_the_order_of_the_texts() -> None:
    answers = embeddings(lambda ids: ids.sum(axis=1, keepdims=True), [*ROWS, np.array([9, 9])])
    assert answers.tolist() == [[6], [3], [6], [15], [3], [6], [18]]


def test_judge_compares_with_the_float_model(tmp_path: Path) -> None:
    pairs = stored(
        tmp_path / "pairs.npz",
        [np.array(row) for row in ([1, 2], [3], [4, 5, 6], [2, 1], [7, 7], [5])],
        left=np.array([0, 1, 2]),
        right=np.array([3, 4, 5]),
        scores=np.array([5.0, 1.0, 3.0]),
    )
    found = []
    for name, between in (("float", FLOAT), ("int8", QUANTIZED)):
        ir.save(model(between), tmp_path / f"{name}.onnx")
        ask_for = {"model": tmp_path / f"{name}.onnx", "pairs": pairs}
        found.append(judge({**ask_for, "reference": tmp_path / "reference.npz"}))
    exact, rounded = found
    assert exact["cosine_min"] == pytest.approx(1)
    assert exact["sqnr_db"] > 200
    assert (exact["quantize"], rounded["quantize"], rounded["dequantize"]) == (0, 1, 1)
    # a step of 0.05 on values of variance 1 is noise of 0.05^2 / 12: 36.8 dB
    assert rounded["sqnr_db"] == pytest.approx(36.8, abs=3)
    assert 0.99 < rounded["cosine_min"] < 1


def test_facts_count_the_weights_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(model(FLOAT), path, external_data="model.weights", size_threshold_bytes=1)
    both = path.stat().st_size + (tmp_path / "model.weights").stat().st_size
    assert facts(path)["megabytes"] == pytest.approx(both / 1e6)


def test_methods_name_what_there_is() -> None:
    assert len({method.folder for method in METHODS}) == len(METHODS)
    for method in METHODS:
        tools = worker.TOOLS if method.environment else own.TOOLS
        assert method.tool in tools
        assert method.environment in {"", *ENVIRONMENTS}
        assert set(method.feeds) <= set(worker.FEEDS)
        json.dumps(dict(method.options))


def test_second_form_of_the_texts_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(_python: object, module: str, asked: dict[str, Any]) -> dict[str, Any]:
        if module == "int8.judge":
            return {"spearman": 80.0}
        if asked["feed"] == "by length":
            return {"error": "ValueError: inhomogeneous", "versions": {}}
        Path(asked["out"]).parent.mkdir()
        Path(asked["out"]).touch()
        return {"seconds": 2.0, "peak_mb": 3.0, "versions": {}}

    monkeypatch.setattr(int8_peers, "ask", fake)
    monkeypatch.setattr(Environment, "python", lambda *_: Path("python"))
    method = Method(name="peer", environment="onnxruntime", tool="ort static")
    row = int8_peers.row_of(method, tmp_path, tmp_path)
    assert row["failures"] == [{"feed": "by length", "error": "ValueError: inhomogeneous"}]
    assert (row["feed"], row["seconds"], row["spearman"]) == ("padded", 2.0, 80.0)


def test_heat_gives_medians_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def takes(seconds: float) -> race.Contender:
        def run(_: race.Inputs) -> None:
            now[0] += seconds

        return run

    monkeypatch.setattr(race.time, "perf_counter", lambda: now[0])
    found = race.heat({race.PLAIN: takes(0.004), "half": takes(0.002)}, {}, 0.0)
    assert found["rounds"] == 15
    assert found["engines"]["half"] == {"ms": 2.0, "ratio": 0.5, "quartiles": [0.5, 0.5]}


def test_race_is_refused_on_a_busy_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (3.25, 1.0, 1.0))
    arguments = argparse.Namespace(busy=False, json=tmp_path / "record.json")
    with pytest.raises(SystemExit, match=r"load average 3\.25: expected at most"):
        int8_peers.measure_latency(arguments, {"rows": []})


def test_table_says_what_failed() -> None:
    good = {
        "name": "a",
        "spearman": 86.0,
        "cosine_mean": 0.99,
        "cosine_min": 0.9,
        "sqnr_db": 20.0,
        "quantize": 2,
        "dequantize": 3,
        "dynamic": 0,
        "megabytes": 5.0,
        "seconds": 1.0,
        "cpu_seconds": 1.5,
        "peak_mb": 7.0,
    }
    bad = {"name": "b", "failures": [{"feed": "padded", "error": "ValueError: no"}]}
    lines = accuracy_table([good, bad], 86.5).splitlines()
    assert lines[2] == "| a | 86.00 | 0.50 | 0.9900 | 0.900 | 20.0 | 2 / 3 | 1.0 | 1.5 | 7 | 5.0 |"
    assert lines[3].startswith("| b | **no result** |")
    assert len({line.count("|") for line in lines}) == 1
    assert failures([good, bad, {**bad, "name": "c"}]) == "* texts padded, `ValueError: no`: b; c"


def test_section_is_exchanged_alone(tmp_path: Path) -> None:
    page = "# Title\n\nwords\n\n## INT8\n\nold\n\n## Later\n\nkept\n"
    new = replace_section(page, "INT8", "new")
    assert new == "# Title\n\nwords\n\n## INT8\n\nnew\n\n## Later\n\nkept\n"
    assert replace_section("# Title\n", "INT8", "new") == "# Title\n\n## INT8\n\nnew\n"
    (tmp_path / "page.md").write_text(new)
    assert section_of(tmp_path / "page.md", "INT8") == "new"
    assert section_of(tmp_path / "none.md", "INT8") == ""
