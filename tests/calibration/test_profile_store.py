from __future__ import annotations

import json
import os
import re
import stat
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from fuselage.calibration.statistics.profile import TensorProfile
from fuselage.calibration.statistics.profile_store import Collected, ProfileStore
from fuselage.calibration.statistics.reservoir import row_keys

KEY, OTHER, THIRD = "a" * 64, "b" * 64, "c" * 64
NAMES = ("x", "y/odd name:0")


def profile(seed=0, rows=40):
    values = np.random.default_rng(seed).normal(size=(4, rows // 4, 6)).astype(np.float32)
    numbers = np.arange(rows)
    ids = numbers.reshape(4, -1)
    return TensorProfile.of("x", values, row_keys(numbers, numbers, 0), 16, ids=ids)


def collected(done=3, parts=2):
    """Of two parts with two batches each."""
    return Collected(
        parts=tuple(
            {name: profile(part) for name in NAMES} if 2 * part < done else {}
            for part in range(parts)
        ),
        done=done,
    )


@pytest.fixture
def notes():
    return []


@pytest.fixture
def store(tmp_path, notes):
    return ProfileStore(tmp_path / "store", note=notes.append)


@pytest.mark.parametrize("done", [1, 2, 3, 4])
def test_round_trip_is_exact(store, notes, done):
    assert store.save(KEY, collected(done))
    assert store.load(KEY, NAMES, (2, 2)) == collected(done)
    assert notes == []


def test_nothing_there_is_no_fault(store, notes):
    assert store.load(KEY, NAMES, (2, 2)) is None
    assert notes == []


def test_folder_is_the_users_alone_and_holds_whole_files_only(store):
    store.save(KEY, collected())
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert [path.name for path in store.folder.iterdir()] == [f"{KEY}.npz"]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def rewritten(change):
    def damage(path):
        with np.load(path) as file:
            arrays = dict(file)
        change(arrays)
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return damage


def headed(**changes):
    def change(arrays):
        head = json.loads(str(arrays["head"]))
        arrays["head"] = np.array(json.dumps(head | changes))

    return rewritten(change)


def replaced(name, array):
    return rewritten(lambda arrays: arrays.update({name: array}))


def unpickled(path):
    np.save(path.with_suffix(""), np.array([{}], dtype=object), allow_pickle=True)
    os.replace(path.with_suffix(".npy"), path)


def foreign_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "not ours")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b""), "EOFError"),
        (lambda path: path.write_bytes(b"not a zip"), "ValueError"),
        (truncated, "BadZipFile"),
        (flipped, "BadZipFile|ValueError|error"),
        (foreign_zip, "KeyError"),
        (unpickled, "Error"),
        (headed(schema=0), "schema 0"),
        (headed(key=OTHER), "schema 1 of bbbb"),
        (headed(done=0), "other tensors"),
        (headed(done=5), "5 of 4 batches"),
        (headed(done="many"), "ValueError"),
        (headed(parts=[["x"], ["x"]]), "other tensors"),
        (rewritten(lambda arrays: arrays.pop("0.1.rows")), "KeyError: '0.1.rows"),
        (replaced("0.0.low", np.zeros(5, np.float32)), r"expected float32\[5\], got float32\[6\]"),
        (replaced("1.0.keys", np.zeros(16, np.int64)), r"expected uint64\[16\], got int64\[16\]"),
        (replaced("1.0.real", np.array([0.0, 1.0, 9.0])), "contradict"),
        (replaced("1.0.real", np.array([0.0, 1.0, np.nan])), "contradict"),
    ],
)
def test_damaged_and_foreign_files_are_reported_and_written_anew(store, notes, damage, reason):
    store.save(KEY, collected())
    damage(store.folder / f"{KEY}.npz")
    assert store.load(KEY, NAMES, (2, 2)) is None
    (note,) = notes
    assert note.startswith(f"{store.folder}/{KEY}.npz: ignored, expected statistics")
    assert re.search(reason, note)
    assert store.save(KEY, collected())
    assert store.load(KEY, NAMES, (2, 2)) == collected()


def test_every_truncation_is_noticed(store, notes):
    store.save(KEY, collected())
    path = store.folder / f"{KEY}.npz"
    content = path.read_bytes()
    for size in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:size])
        assert store.load(KEY, NAMES, (2, 2)) is None
    assert len(notes) >= 40


def test_room_is_made_for_what_was_written_and_use_is_remembered(store):
    written = []
    roomy = replace(store, make_room=written.append)
    for key in (KEY, OTHER):
        roomy.save(key, collected())
        os.utime(store.folder / f"{key}.npz", (100, 100))
    assert written == [store.folder / f"{key}.npz" for key in (KEY, OTHER)]
    assert roomy.load(KEY, NAMES, (2, 2)) is not None
    used = [(store.folder / f"{key}.npz").stat().st_mtime for key in (KEY, OTHER)]
    assert used[0] > time.time() - 60
    assert used[1] == 100


def test_what_a_killed_process_left_goes_after_an_hour_and_foreign_files_stay(store):
    store.save(KEY, collected())
    old, young, foreign = (store.folder / name for name in (".x.1.part", ".y.2.part", "notes.txt"))
    for path in (old, young, foreign):
        path.write_text("x")
    os.utime(old, (time.time() - 4000,) * 2)
    os.utime(foreign, (time.time() - 9e6,) * 2)
    store.save(OTHER, collected())
    assert not old.exists()
    assert young.exists()
    assert foreign.exists()


def test_folder_that_cannot_be_written_costs_a_note_only(tmp_path, notes):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    store = ProfileStore(blocked / "store", note=notes.append)
    assert store.load(KEY, NAMES, (2, 2)) is None
    assert not store.save(KEY, collected())
    assert len(notes) == 1
    assert "cannot be kept" in notes[0]


def test_full_disk_leaves_the_old_file(store, notes, monkeypatch):
    store.save(KEY, collected(1))

    def full(file, **_arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert not store.save(KEY, collected(3))
    assert "No space left on device" in notes[0]
    assert [path.name for path in store.folder.iterdir()] == [f"{KEY}.npz"]
    assert store.load(KEY, NAMES, (2, 2)) == collected(1)


def test_key_is_a_digest_and_no_path(store):
    with pytest.raises(ValueError, match="expected sha256"):
        store.load("../../etc/passwd", NAMES, (2, 2))


def test_what_a_killed_write_left_is_swept_when_it_is_old(store):
    store.save(KEY, collected())
    old, new = (store.folder / f".{KEY}.{pid}.part" for pid in (1, 2))
    for part, age in ((old, 2 * 3600), (new, 60)):
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age,) * 2)
    store.save(KEY, collected())
    assert not old.exists()
    assert new.exists()  # another process may be writing it
