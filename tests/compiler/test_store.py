"""The cache on disk: what is found again, what goes, and what damage does."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fuselage.calibration.statistics.profile_store import Collected
from fuselage.compiler.cache import entry
from fuselage.compiler.cache.changes import rebuilt_because
from fuselage.compiler.cache.entry import DamagedEntryError, Entry, hash_files
from fuselage.compiler.cache.eviction import items, remove_unused, shrink, sweep_dead
from fuselage.compiler.cache.key import StageKey
from fuselage.compiler.cache.listing import last_changes, listing
from fuselage.compiler.cache.statistics import calibration_store
from fuselage.compiler.cache.store import Store


def key(stage: str = "export", target: str = "", **fields: Any) -> StageKey:
    return StageKey(stage=stage, model="m", target=target, fields=fields or {"task": "auto"})


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, notes: list[str]) -> Store:
    return Store(tmp_path / "cache", 10_000, notes.append)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    folder = tmp_path / "product"
    (folder / "inner").mkdir(parents=True)
    (folder / "engine.plan").write_bytes(b"plan" * 10)
    (folder / "inner" / "weights").write_bytes(b"w")
    return folder


def keep(store: Store, wanted: StageKey, folder: Path, **facts: Any) -> Entry:
    store.keep(wanted, facts, folder, hash_files(folder))
    found = store.find(wanted)
    assert found is not None
    return found


def test_what_was_kept_is_found_again_with_its_key_in_clear(
    store: Store, product: Path, notes: list[str], tmp_path: Path
) -> None:
    assert store.find(key()) is None
    entry = keep(store, key(), product, nodes=3)
    assert (entry.facts, entry.key.fields, entry.key.model) == ({"nodes": 3}, {"task": "auto"}, "m")
    assert list(entry.files) == ["engine.plan", "inner/weights"]
    entry.copy("inner/weights", tmp_path / "out" / "weights")
    assert (tmp_path / "out" / "weights").read_bytes() == b"w"
    written = json.loads((entry.folder / "entry.json").read_text())
    assert written["key"] == {"task": "auto"}
    assert written["files"]["engine.plan"]["bytes"] == 40
    assert [path.name for path in entry.folder.parent.iterdir()] == [key().digest]
    assert {path.stat().st_mode & 0o777 for path in (store.root, entry.folder.parent)} == {0o700}
    assert notes == []


def test_equal_keys_are_equal_in_any_order_and_stages_never_meet() -> None:
    one = StageKey(stage="a", model="m", fields={"x": 1, "y": {"b": 2, "a": 1}})
    other = StageKey(stage="a", model="other name", fields={"y": {"a": 1, "b": 2}, "x": 1})
    assert one.digest == other.digest
    assert one.digest != StageKey(stage="b", model="m", fields=one.fields).digest
    assert one.digest != StageKey(stage="a", model="m", fields={**one.fields, "x": 2}).digest


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"nodes": 3', '"nodes": 4'),
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace("engine.plan", "../../escape"),
        lambda text: re.sub(r'"created": .*', '"created": 5,', text),
        lambda text: re.sub(r'"created": .*', '"created": "now",', text),
        lambda _: "[]",
        lambda _: "é",
        lambda _: "[" * 100_000,
    ],
)
def test_a_damaged_entry_is_named_removed_and_made_again(
    store: Store, product: Path, notes: list[str], damage: Any
) -> None:
    entry = keep(store, key(), product, nodes=3)
    path = entry.folder / "entry.json"
    path.write_text(damage(path.read_text()), encoding="utf-8")
    assert store.find(key()) is None
    assert not entry.folder.exists()
    (note,) = notes
    assert str(path) in note
    assert "it is removed, the stage runs again" in note


def test_a_file_that_is_not_what_was_kept_is_never_left_in_place(
    store: Store, product: Path, tmp_path: Path
) -> None:
    entry = keep(store, key(), product)
    (entry.folder / "engine.plan").write_bytes(b"plan" * 9 + b"plaN")
    with pytest.raises(DamagedEntryError, match=r"engine\.plan: expected 40 bytes of sha256"):
        entry.copy("engine.plan", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    (entry.folder / "engine.plan").unlink()
    with pytest.raises(DamagedEntryError, match=r"engine\.plan: No such file"):
        entry.copy("engine.plan", tmp_path / "copy")


def test_a_disk_that_cannot_be_read_is_damage_and_nothing_half_copied_is_left(
    store: Store, product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: object) -> Iterator[bytes]:
        yield b"pl"
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    found = keep(store, key(), product)
    monkeypatch.setattr(entry, "_chunks", failing)
    with pytest.raises(DamagedEntryError, match=r"engine\.plan: cannot be read: Input/output"):
        found.copy("engine.plan", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_beyond_the_limit_what_was_not_used_for_longest_goes(store: Store, product: Path) -> None:
    (product / "engine.plan").write_bytes(bytes(2_000))
    for number in range(3):
        entry = keep(store, key(task=number), product)
        os.utime(entry.folder / "entry.json", (100 + number, 100 + number))
    assert store.find(key(task=0)) is not None  # used now, so 1 is the oldest
    keep(store, key(task=3), product)
    assert [store.find(key(task=n)) is not None for n in range(4)] == [True, False, True, True]


def test_what_is_kept_now_stays_though_the_clock_went_back(store: Store, product: Path) -> None:
    (product / "engine.plan").write_bytes(bytes(4_000))
    for number in range(2):
        entry = keep(store, key(task=number), product)
        os.utime(entry.folder / "entry.json", (time.time() + 9000 + number,) * 2)
    keep(store, key(task=2), product)
    assert [store.find(key(task=n)) is not None for n in range(3)] == [False, True, True]


def test_what_does_not_fit_goes_and_what_is_older_and_fits_stays(
    store: Store, product: Path
) -> None:
    sizes = {0: 100, 1: 9_000, 2: 4_000}
    for number, size in sizes.items():
        (product / "engine.plan").write_bytes(bytes(size))
        store.limit_bytes = 100_000
        entry = keep(store, key(task=number), product)
        os.utime(entry.folder / "entry.json", (100 + number,) * 2)
    removed = shrink(store.root, 10_000)
    assert [item.path.name for item in removed] == [key(task=1).digest]


def test_the_product_of_another_key_is_not_taken(
    store: Store, product: Path, notes: list[str]
) -> None:
    entry = keep(store, key(task=0), product)
    shutil.copytree(entry.folder, entry.folder.with_name(key(task=1).digest))
    assert store.find(key(task=1)) is None
    (note,) = notes
    assert "holds the product of another key; it is removed, the stage runs again" in note
    assert store.find(key(task=0)) is not None


def test_statistics_of_calibration_are_under_the_same_limit(store: Store, product: Path) -> None:
    (store.root / "calibration").mkdir(parents=True)
    old, new = (store.root / "calibration" / f"{name * 64}.npz" for name in "ab")
    for path, used in ((old, 100), (new, time.time() + 60)):
        path.write_bytes(bytes(6_000))
        os.utime(path, (used, used))
    keep(store, key(), product)
    assert (old.exists(), new.exists()) == (False, True)
    assert sorted(row.stage for row in listing(store.root)) == ["calibration", "export"]


def test_statistics_that_are_saved_push_out_what_was_not_used_for_longest(
    store: Store, product: Path
) -> None:
    (product / "engine.plan").write_bytes(bytes(4_000))
    for number in range(2):
        entry = keep(store, key(task=number), product)
        os.utime(entry.folder / "entry.json", (100 + number, 100 + number))
    statistics = calibration_store(store)
    assert statistics is not None
    assert statistics.save("a" * 64, Collected(parts=({},), done=1))
    assert [store.find(key(task=n)) is not None for n in range(2)] == [True, True]
    store.limit_bytes = 6_000
    os.utime(store.root / "stages/export" / key(task=0).digest / "entry.json", (100, 100))
    assert statistics.save("b" * 64, Collected(parts=({},), done=1))
    assert [store.find(key(task=n)) is not None for n in range(2)] == [False, True]
    assert len(list((store.root / "calibration").iterdir())) == 2
    store.limit_bytes = 1
    assert statistics.save("c" * 64, Collected(parts=({},), done=1))
    (left,) = items(store.root)  # beyond the limit alone, and what a run goes on from
    assert left.path.stem == "c" * 64
    assert calibration_store(None) is None


def test_what_is_larger_than_the_limit_is_not_kept_and_the_note_comes_once(
    store: Store, product: Path, notes: list[str]
) -> None:
    (product / "engine.plan").write_bytes(bytes(20_000))
    for number in range(2):
        store.keep(key(task=number), {}, product, hash_files(product))
        assert store.find(key(task=number)) is None
    (note,) = notes
    assert "export has 20,001 bytes, the limit is 10,000" in note


def test_a_folder_that_cannot_be_written_is_a_note(
    tmp_path: Path, product: Path, notes: list[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    store = Store(tmp_path / "file" / "cache", 10_000, notes.append)
    with store.locked(key()):
        assert store.find(key()) is None
        store.keep(key(), {}, product, hash_files(product))
        store.keep(key(), {}, product, hash_files(product))
    (note,) = notes
    assert note.startswith(f"{store.root}: products cannot be kept for later builds (")


def test_one_holder_a_key_and_the_other_hears_why_it_waits(store: Store, notes: list[str]) -> None:
    order: list[str] = []

    def second() -> None:
        with store.locked(key()):
            order.append("second")

    waiter = threading.Thread(target=second)
    with store.locked(key()):
        with store.locked(key("lower")):
            order.append("another key")
        waiter.start()
        deadline = time.monotonic() + 10
        while not notes and time.monotonic() < deadline:
            time.sleep(0.01)
        order.append("first")
    waiter.join(10)
    assert order == ["another key", "first", "second"]
    assert notes == ["export: another build makes the same; waiting for it"]
    assert list((store.root / "locks").iterdir()) == []


def test_what_dead_processes_left_is_swept_and_the_living_are_not(
    store: Store, product: Path
) -> None:
    place = keep(store, key(), product).folder
    half = place.with_name(f".{place.name}.building-00c0ffee")
    half.mkdir()
    (half / "engine.plan").write_bytes(b"half")
    dead = store.root / "locks" / "dead.lock"
    dead.parent.mkdir(exist_ok=True)
    dead.touch()
    os.utime(dead, (100, 100))
    with store.locked(key()):
        held = next(path for path in dead.parent.iterdir() if path != dead)
        os.utime(held, (100, 100))
        sweep_dead(store.root)
        assert (half.exists(), dead.exists(), held.exists()) == (False, False, True)
    assert store.find(key()) is not None


def test_pruning_by_size_and_by_age(store: Store, product: Path) -> None:
    for number, used in enumerate((100.0, time.time() - 3600, time.time())):
        entry = keep(store, key(task=number), product)
        os.utime(entry.folder / "entry.json", (used, used))
    assert len(remove_unused(store.root, 86400)) == 1
    assert [item.path.name for item in items(store.root)] == [
        key(task=2).digest, key(task=1).digest
    ]  # fmt: skip
    assert [item.path.name for item in shrink(store.root, 1000)] == [key(task=1).digest]
    assert len(shrink(store.root, 0)) == 1
    assert items(store.root) == []


def test_the_key_that_made_a_stage_run_is_named(store: Store, product: Path) -> None:
    keep(store, key("quantise", texts="abc", versions={"onnx": "1"}), product)
    keep(store, key("quantise", texts="xyz", versions={"onnx": "2"}), product)
    keep(store, key("engine", target="ort-cpu", texts="def"), product)
    wanted = key("quantise", texts="def", versions={"onnx": "1"})
    assert rebuilt_because(store.entries("quantise"), wanted) == ["texts: 'abc' -> 'def'"]
    assert list(store.entries("prove")) == []
    keep(store, wanted, product)
    assert [
        (use["stage"], use["target"], use["changed"]) for use in last_changes(store.root, "m")
    ] == [
        ("engine", "ort-cpu", []),
        ("quantise", None, ["texts: 'abc' -> 'def'"]),
    ]
    assert last_changes(store.root, "another") == []
