from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fuselage.calibration.run import calibrate
from fuselage.calibration.session import GraphSession
from fuselage.calibration.statistics import collect as collecting
from fuselage.calibration.statistics.collect import Taps, collect
from fuselage.calibration.statistics.profile_store import ProfileStore
from fuselage.calibration.text.data import CalibrationSet
from fuselage.errors import CalibrationError

NAMES = ("normed", "active")
WORDS = [f"{word} {number}" for number in range(6) for word in ("a", "ok then", "brown fox", "why")]


class Notes(list):
    @property
    def text(self):
        return "\n".join(self)


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def store(tmp_path, notes):
    return ProfileStore(tmp_path / "store", note=notes.append)


@pytest.fixture
def taps(graph):
    return Taps(graph=graph, names=NAMES, capacity=16, seeds=(0, 1))


@pytest.fixture
def parts(graph, tokenize):
    data = CalibrationSet.from_texts(WORDS).split(6)
    return [part.batches(tokenize, graph.inputs, max_tokens=20) for part in data]


@pytest.fixture
def runs(monkeypatch):
    """Batches that were run."""
    seen = []
    inner = GraphSession.run

    def run(self, feeds, outputs=None):
        seen.append(feeds["input_ids"].tolist())
        return inner(self, feeds, outputs)

    monkeypatch.setattr(GraphSession, "run", run)
    return seen


def stop_behind(batches):
    """Progress that presses Ctrl-C in the course of the batch that is then finished."""
    count = iter(range(1, 1000))

    def progress(_done, _total):
        if next(count) == batches:
            signal.raise_signal(signal.SIGINT)

    return progress


def test_finished_run_is_reused_without_a_forward_pass(taps, parts, store, runs, notes):
    first = collect(taps, parts, store=store)
    assert len(runs) == sum(map(len, parts))
    runs.clear()
    seen = []
    again = collect(taps, parts, store=store, on_progress=lambda *state: seen.append(state))
    assert again == first
    assert (runs, seen) == ([], [(24, 24)])
    assert notes == ["statistics of 24 texts were there from an earlier run: none was run"]


@pytest.mark.parametrize("stopped", [1, 4, 8, -1])
def test_interrupted_run_goes_on_and_ends_bit_identical(taps, parts, store, runs, notes, stopped):
    whole = collect(taps, parts)
    everything = list(runs)
    stopped %= len(everything)  # -1 is in the second part
    runs.clear()
    with pytest.raises(KeyboardInterrupt):
        collect(taps, parts, store=store, on_progress=stop_behind(stopped))
    assert len(runs) == stopped
    seen = []
    resumed = collect(taps, parts, store=store, on_progress=lambda *state: seen.append(state))
    assert resumed == whole
    assert runs == everything
    assert seen[-1] == (24, 24)
    assert seen[0][0] > stopped
    texts = sum(len(rows) for rows in everything[:stopped])
    assert f"goes on behind text {texts} of 24" in notes.text


def test_without_a_store_ctrl_c_acts_at_once(taps, parts, runs):
    with pytest.raises(KeyboardInterrupt):
        collect(taps, parts, on_progress=stop_behind(2))
    assert len(runs) == 2


def test_handler_that_lets_it_go_on_gets_a_whole_result(taps, parts, store):
    calls = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: calls.append(number))
    try:
        rings = iter([False, True])
        found = collect(
            taps,
            parts,
            store=store,
            on_progress=lambda *_: next(rings, False) and signal.raise_signal(signal.SIGTERM),
        )
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert calls == [signal.SIGTERM]
    assert found == collect(taps, parts)


def test_failed_run_keeps_no_half_batch(taps, parts, store, monkeypatch):
    inner, count = collecting.TensorProfile.of, iter(range(1000))

    def fails(name, *rest):
        if next(count) == 5:  # the second tensor of the third batch
            raise CalibrationError("tensor: not finite")
        return inner(name, *rest)

    monkeypatch.setattr(collecting, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(collecting, "_MOST_SAVING", 1e9)
    with monkeypatch.context() as patch:
        patch.setattr(collecting.TensorProfile, "of", fails)
        with pytest.raises(CalibrationError, match="not finite"):
            collect(taps, parts, store=store)
    assert collect(taps, parts, store=store) == collect(taps, parts)


@pytest.mark.parametrize(
    "change",
    [
        {"capacity": 17},
        {"seeds": (0, 2)},
        {"names": ("active", "normed")},
        {"names": ("active",)},
    ],
)
def test_other_questions_are_asked_anew(taps, parts, store, runs, notes, change):
    collect(taps, parts, store=store)
    runs.clear()
    collect(replace(taps, **change), parts, store=store)
    assert len(runs) == sum(map(len, parts))
    assert notes == []


def test_other_text_batches_and_graph_are_run_anew(taps, parts, store, runs, graph, tokenize):
    collect(taps, parts, store=store)
    data = CalibrationSet.from_texts(WORDS)
    total = sum(map(len, parts))
    for others in (
        [CalibrationSet.from_texts(WORDS[1:]).batches(tokenize, graph.inputs, max_tokens=20)],
        [data.batches(tokenize, graph.inputs, max_tokens=20)],
        list(reversed(parts)),
    ):
        runs.clear()
        collect(taps, others, store=store)
        assert len(runs) == sum(map(len, others))
    other = graph.clone()
    other.model.graph.node(0).name = "another"
    runs.clear()
    collect(Taps(graph=other, names=NAMES, capacity=16, seeds=(0, 1)), parts, store=store)
    assert len(runs) == total


def test_calibrate_gives_the_same_table_from_the_store(graph, tokenize, store, runs):
    data = CalibrationSet.from_texts(WORDS)
    plain = calibrate(graph, data, tokenize)
    with pytest.raises(KeyboardInterrupt):
        calibrate(graph, data, tokenize, store=store, on_progress=stop_behind(2))
    first = calibrate(graph, data, tokenize, store=store)
    runs.clear()
    again = calibrate(graph, data, tokenize, store=store)
    assert runs == []
    assert plain.to_json() == first.to_json() == again.to_json()
    assert calibrate(graph, data, tokenize, store=store, method="mse").method == "mse"
    assert runs == []  # ranges are made anew from the same statistics


def test_file_holds_no_text(graph, tokenize, tmp_path):
    secret = "correct horse battery staple"
    store = ProfileStore(tmp_path)
    calibrate(graph, CalibrationSet.from_texts([secret, *WORDS]), tokenize, store=store)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    assert b"horse" not in content
    assert secret.encode("utf-32-le") not in content


GOES_ON = r"calibration goes on behind text (\d+) of 60, where an earlier run was interrupted"
CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
from conftest import FakeTokenizer, tiny_graph
from fuselage.calibration.statistics import collect as collecting
from fuselage.calibration.text.data import CalibrationSet
from fuselage.calibration.statistics.profile_store import ProfileStore
from fuselage.calibration.run import calibrate
from fuselage.calibration import run
from pathlib import Path

collecting._SAVE_SECONDS, collecting._MOST_SAVING = {every}, 1e9
run.TAP_BYTES = 320 * 20
def progress(done, total):
    print(done, flush=True)
    time.sleep(0.02)
texts = [f"{{word}} {{number}}" for number in range(20) for word in ("a", "ok then", "fox")]
store = ProfileStore(Path({folder!r}), note=lambda line: print(line, flush=True))
table = calibrate(
    tiny_graph(), CalibrationSet.from_texts(texts), FakeTokenizer(), store=store,
    on_progress=progress,
)
print("DONE", flush=True)
Path({folder!r}, "table.json").write_text(table.to_json())
"""


def started(folder: Path, every: float) -> subprocess.Popen[str]:
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(folder), every=every)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def read_until(child: subprocess.Popen[str], lines: int) -> list[str]:
    assert child.stdout is not None
    found: list[str] = []
    while len(found) < lines:
        line = child.stdout.readline()
        assert line, "\n".join(found)
        found.append(line.strip())
    return found


def test_killed_process_is_taken_up_where_it_was(tmp_path):
    saved = 0
    for number, lines in enumerate((3, 5, 9)):
        child = started(tmp_path, 0.0)
        found = read_until(child, lines)
        time.sleep(0.01 * number)  # between batches, in one, and while a file is written
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        if number:
            assert int(re.fullmatch(GOES_ON, found[0])[1]) >= saved
        saved = int(found[-2])  # the last one may not have been written yet
    child = started(tmp_path, 0.0)
    output, _ = child.communicate()
    lines = output.split("\n")
    assert int(re.fullmatch(GOES_ON, lines[0])[1]) >= saved
    assert int(lines[1]) > saved
    assert "DONE" in lines
    reference = tmp_path / "reference"
    reference.mkdir()
    started(reference, 1e9).communicate()
    table, whole = (folder / "table.json" for folder in (tmp_path, reference))
    assert table.read_text() == whole.read_text()
    # What a killed write left is swept when it is too old to be another process's.
    left = [path.suffix for path in tmp_path.glob("*.*") if path.suffix != ".part"]
    assert sorted(left) == [".json", ".npz"]


def test_sigterm_saves_and_then_ends_the_process(tmp_path):
    child = started(tmp_path, 1e9)
    found = read_until(child, 4)
    child.send_signal(signal.SIGTERM)
    child.communicate()
    assert child.returncode == -signal.SIGTERM
    (file,) = tmp_path.glob("*.npz")
    assert time.time() - os.stat(file).st_mtime < 60
    child = started(tmp_path, 1e9)
    output, _ = child.communicate()
    first, second, *_ = output.split("\n")
    assert "goes on behind text" in first
    assert int(second) > int(found[-1])
