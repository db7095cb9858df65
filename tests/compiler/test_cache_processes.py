"""Builds in real processes: two at once make one, and kill -9 leaves a whole bundle or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuselage.compiler.cache.entry import DamagedEntryError
from fuselage.compiler.cache.store import Store

Drive = Callable[[str], dict[str, Any]]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def drive(checkpoint: Callable[..., Path], tmp_path: Path) -> Drive:
    """Run the driver on a tiny model; what it found."""

    def run(action: str) -> dict[str, Any]:
        command = [Path(__file__).with_name("build_driver.py"), action, checkpoint(), tmp_path]
        environment = {
            **os.environ, "FUSELAGE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


def assert_sound(cache: Path) -> None:
    """Every entry can be read, every file is what was kept, nothing else lies around."""
    store = Store(cache, 1 << 30)
    stages = sorted(path.name for path in (cache / "stages").iterdir())
    entries = [entry for stage in stages for entry in store.entries(stage)]
    for entry in entries:
        for name in entry.files:
            try:
                entry.copy(name, cache.parent / "copy")
            except DamagedEntryError as error:
                pytest.fail(str(error))
    folders = [path for path in (cache / "stages").glob("*/*") if not path.name.startswith(".")]
    assert len(folders) == len(entries)


def test_two_processes_at_once_make_one_build(drive: Drive, tmp_path: Path) -> None:
    found = drive("race")
    assert found == {"codes": [0, 0], "calls": ["export", "build"]}
    one, two = (tmp_path / name / "ort-cpu" for name in ("one", "two"))
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()
    assert_sound(tmp_path / "cache")
    assert list((tmp_path / "cache" / "locks").iterdir()) == []


@pytest.mark.slow
def test_kill_9_leaves_the_old_bundle_the_new_one_or_none(drive: Drive, tmp_path: Path) -> None:
    trials = drive("kill")["kills"]
    last = trials.pop()
    assert last["code"] == 0
    killed = [trial for trial in trials if trial["code"] == -9]
    assert len(killed) >= len(trials) // 2
    for trial in trials:
        assert trial["after"] in (trial["before"], last["after"]), trial
    assert {"none", last["after"]} <= {trial["before"] for trial in trials} | {last["after"]}
    assert_sound(tmp_path / "cache")
    remains = [path.name for path in tmp_path.glob(".*")]
    assert remains == []
