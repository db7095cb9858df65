"""Timings of kernels in the cache: keyed, hashed, merged by one process at a time, never half."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fuselage.compiler.cache import timings
from fuselage.compiler.cache.store import Store
from fuselage.compiler.cache.timings import StoredTimings
from fuselage.engines import host

KEPT = """
import json, sys
from pathlib import Path
from fuselage.compiler.cache.store import Store
from fuselage.compiler.cache.timings import StoredTimings
kept = StoredTimings.of(Store(Path(sys.argv[1]), 10**9), "tensorrt")
first, count = int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + count):
    kept.update(lambda old: json.dumps([*json.loads(old or "[]"), number]).encode())
"""


def process(root: Path, first: int, count: int) -> subprocess.Popen[str]:
    """A process that waits for `go`."""
    command = [sys.executable, "-c", KEPT, str(root), str(first), str(count)]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    with started.stdout as said:
        assert said.readline() == "ready\n"
    return started


def go(*workers: subprocess.Popen[str]) -> None:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def kept(tmp_path: Path, notes: list[str]) -> StoredTimings:
    found = StoredTimings.of(Store(tmp_path / "cache", 10**9, notes.append), "tensorrt")
    assert found is not None
    return found


def numbers(kept: StoredTimings) -> list[int]:
    content = kept.read()
    return [] if content is None else list(json.loads(content))


def test_they_come_back_for_the_same_version_gpu_and_driver_alone(
    kept: StoredTimings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept.read() is None
    kept.update(lambda old: b"[1]" if old is None else b"wrong")
    assert kept.read() == b"[1]"
    changes = {
        "nvidia_driver": lambda: "999.1",
        "package_versions": lambda _: {"tensorrt": "11.9"},
        "gpus": lambda: (replace_gpu(),),
    }
    for name, value in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(timings.host, name, value)
            other = StoredTimings.of(kept.store, "tensorrt")
            assert other is not None
            assert other.read() is None, name
    again = StoredTimings.of(kept.store, "tensorrt")
    assert again is not None
    assert again.read() == b"[1]"


def replace_gpu() -> host.Gpu:
    fields = dict.fromkeys(host.Gpu.__dataclass_fields__, "X")
    return replace(host.Gpu(**fields))  # type: ignore[arg-type]


def test_without_a_cache_there_are_none() -> None:
    assert StoredTimings.of(None, "tensorrt") is None


def test_damage_is_noted_and_timed_anew(kept: StoredTimings, notes: list[str]) -> None:
    kept.update(lambda _: b"[1, 2]")
    (path,) = (kept.store.root / "stages" / "timings").rglob("timing.cache")
    path.write_bytes(b"[1, 3]")
    assert kept.read() is None
    assert any("timing.cache: is not what was kept" in note for note in notes)
    assert not path.exists()
    kept.update(lambda old: b"[]" if old is None else b"wrong")
    assert kept.read() == b"[]"


def test_equal_timings_are_not_written_again(kept: StoredTimings) -> None:
    kept.update(lambda _: b"[1]")
    (path,) = (kept.store.root / "stages" / "timings").rglob("entry.json")
    before = path.read_bytes()
    kept.update(lambda old: old or b"")
    assert path.read_bytes() == before


def test_builds_at_once_lose_nothing(kept: StoredTimings) -> None:
    workers = [process(kept.store.root, 100 * worker, 15) for worker in range(3)]
    go(*workers)
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    expected = [100 * worker + number for worker in range(3) for number in range(15)]
    assert sorted(numbers(kept)) == expected


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is of Unix")
def test_a_killed_build_leaves_what_was_or_what_is(kept: StoredTimings, notes: list[str]) -> None:
    random.seed(5)
    done = 0
    for _ in range(6):
        worker = process(kept.store.root, done, 10**6)
        go(worker)
        time.sleep(random.uniform(0.005, 0.1))
        worker.send_signal(signal.SIGKILL)
        worker.wait(60)
        found = numbers(kept)
        assert found == list(range(len(found)))
        assert len(found) >= done
        done = len(found)
    assert done > 0
    assert notes == []
    kept.update(lambda old: json.dumps([*json.loads(old or "[]"), -1]).encode())
    assert numbers(kept)[-1] == -1
    (entry,) = (kept.store.root / "stages" / "timings").iterdir()  # remains were swept
    assert entry.name == kept.key.digest
