"""A bundle that another build replaces while it is opened, or after."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fuselage.engines import bundle as module
from fuselage.engines.bundle import Bundle, BundleWriter
from fuselage.engines.bundle_files import read_manifest
from fuselage.engines.folder_swap import replace_folder
from fuselage.engines.manifest import Manifest
from fuselage.errors import BundleError


@pytest.fixture
def other(folder: Path, tmp_path: Path) -> Path:
    """The same bundle of another task, with another file in its target."""
    manifest = Bundle.open(folder).manifest
    with BundleWriter(tmp_path / "other") as writer:
        for name in manifest.files:
            shutil.copyfile(folder / name, writer.path(name))
        writer.add("tokenizer.json", "another tokenizer")
        writer.add("ort-cpu/engine.json", "{}")
        writer.commit(replace(manifest, task="another"))
    return tmp_path / "other"


def test_opening_while_it_is_replaced_gives_the_new_one(
    folder: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def read(root: Path) -> Manifest:
        found = read_manifest(root)
        if not reads:
            replace_folder(other, folder)
        reads.append(found.task)
        return found

    monkeypatch.setattr(module, "read_manifest", read)
    assert Bundle.open(folder, full=True).manifest.task == "another"
    assert len(reads) == 3  # the old one, the question whether it is, the new one


def test_a_bundle_replaced_after_it_was_opened_says_so(folder: Path, other: Path) -> None:
    bundle = Bundle.open(folder)
    replace_folder(other, folder)
    with pytest.raises(BundleError, match="was replaced by another bundle while it was open"):
        bundle.engine()
    assert Bundle.open(folder).manifest.task == "another"


def test_damage_is_still_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def read(root: Path) -> Manifest:
        reads.append(root)
        return read_manifest(root)

    monkeypatch.setattr(module, "read_manifest", read)
    (folder / "tokenizer.json").write_bytes(b"x" * (folder / "tokenizer.json").stat().st_size)
    with pytest.raises(BundleError, match="the file is damaged"):
        Bundle.open(folder)
    assert len(reads) == 2
