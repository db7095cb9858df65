# ruff: noqa: PT012 - what happens to a whole with block is what is tested here
from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fuselage.engines import folder_swap
from fuselage.engines.bundle import Bundle, BundleWriter
from fuselage.engines.folder_swap import replace_folder
from fuselage.engines.manifest import Manifest
from fuselage.errors import BundleError

Make = Callable[..., Manifest]


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(path: Path, manifest: Manifest, text: str = "x") -> Manifest:
    """A bundle whose engine is a text file; whole as far as hashes go."""
    with BundleWriter(path) as writer:
        writer.add("ort-cpu/engine.json", text)
        writer.add("task.json", text * 2)
        return writer.commit(manifest)


def task_of(path: Path) -> str:
    return Bundle.open(path, full=True).manifest.task


@pytest.fixture(params=["exchange", "two renames"])
def any_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without renameat2."""
    if request.param == "two renames":
        monkeypatch.setattr(folder_swap, "_exchange", lambda *_: False)


@pytest.mark.usefixtures("any_system")
def test_a_bundle_replaces_an_older_one_and_nothing_else_stays(
    tmp_path: Path, manifest: Make
) -> None:
    path = tmp_path / "deep" / "bundle"
    write(path, manifest("embedding"), "old")
    written = write(path, manifest("fill-mask"), "new")
    assert task_of(path) == "fill-mask"
    assert Bundle.open(path).manifest == written
    assert (path / "task.json").read_text() == "newnew"
    assert os.listdir(path.parent) == ["bundle"]


def test_equal_content_gives_equal_bytes(tmp_path: Path, manifest: Make) -> None:
    write(tmp_path / "one", manifest())
    write(tmp_path / "two", manifest())
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_folders_are_as_open_as_the_umask_allows(tmp_path: Path, manifest: Make) -> None:
    write(tmp_path / "bundle", manifest())
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "bundle").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("failure", [RuntimeError("boom"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_leaves_the_old_bundle(
    failure: BaseException, tmp_path: Path, manifest: Make
) -> None:
    write(tmp_path / "bundle", manifest("embedding"))
    before = content(tmp_path)
    with pytest.raises(type(failure)), BundleWriter(tmp_path / "bundle") as writer:
        writer.add("ort-cpu/engine.json", "half")
        raise failure
    assert content(tmp_path) == before
    assert os.listdir(tmp_path) == ["bundle"]


def test_leaving_without_a_commit_writes_nothing(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "bundle") as writer:
        writer.add("task.json", "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("any_system")
def test_a_crash_in_the_middle_of_the_commit_leaves_the_old_bundle(
    tmp_path: Path, manifest: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "bundle", manifest("embedding"))
    before = content(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fuselage.engines.bundle_writer.replace_folder", fail)
    with pytest.raises(BundleError, match=r"cannot write the bundle: .*Input/output error"):
        write(tmp_path / "bundle", manifest("fill-mask"))
    assert content(tmp_path) == before


_KILLED = """
import os, sys
from fuselage.engines.bundle import BundleWriter
from fuselage.engines import bundle_writer, folder_swap
from fuselage.engines.manifest import Manifest

stage, path, old = sys.argv[1:]
if stage == "hashed":
    bundle_writer.replace_folder = lambda *_: os._exit(9)
if stage == "between renames":
    folder_swap._exchange = lambda *_: False
    folder_swap.Path.rename = dying = lambda self, to, real=folder_swap.Path.rename: (
        real(self, to), os._exit(9) if ".retired-" in str(to) else None)
with BundleWriter(path) as writer:
    writer.add("ort-cpu/engine.json", "half")
    if stage == "writing":
        os._exit(9)
    writer.commit(Manifest.from_json(open(old).read()))
"""


@pytest.mark.parametrize("stage", ["writing", "hashed", "between renames"])
def test_a_killed_build_leaves_the_old_bundle_and_the_next_cleans_up(
    stage: str, tmp_path: Path, manifest: Make
) -> None:
    path = tmp_path / "bundle"
    write(path, manifest("embedding"), "old")
    old = content(path)

    arguments = [stage, str(path), str(path / "manifest.json")]
    done = subprocess.run([sys.executable, "-c", _KILLED, *arguments], check=False)

    assert done.returncode == 9
    assert len(os.listdir(tmp_path)) == 2
    if stage == "between renames":  # the only moment without a bundle; the old one is set aside
        assert not path.exists()
    else:
        assert content(path) == old
    with BundleWriter(path):
        assert content(path) == old
        remains = [name for name in os.listdir(tmp_path) if name != "bundle"]
        assert len(remains) == 1  # this writer's own
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_living_build_is_not_swept(tmp_path: Path, manifest: Make) -> None:
    with BundleWriter(tmp_path / "bundle") as slow:
        slow.add("ort-cpu/engine.json", "slow")
        write(tmp_path / "bundle", manifest("fill-mask"))
        assert task_of(tmp_path / "bundle") == "fill-mask"
        slow.commit(manifest("embedding"))
    assert task_of(tmp_path / "bundle") == "embedding"
    assert os.listdir(tmp_path) == ["bundle"]


def test_another_bundles_build_is_not_swept(tmp_path: Path) -> None:
    (tmp_path / ".bundle2.building-00000000").mkdir()
    (tmp_path / ".bundleX.building-00000000").mkdir()
    with BundleWriter(tmp_path / "bundle?"):
        pass
    with BundleWriter(tmp_path / "bundle"):
        pass
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.usefixtures("any_system")
def test_concurrent_writers_leave_one_whole_bundle(tmp_path: Path, manifest: Make) -> None:
    path, failures = tmp_path / "bundle", list[BaseException]()

    def work(name: str) -> None:
        try:
            for _ in range(15):
                write(path, manifest(name), name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"task-{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (path / "task.json").read_text() == task_of(path) * 2
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs renameat2")
def test_a_reader_never_finds_the_bundle_gone(tmp_path: Path, manifest: Make) -> None:
    path, stop, missing = tmp_path / "bundle", threading.Event(), list[bool]()
    write(path, manifest())

    def watch() -> None:
        while not stop.is_set():
            missing.append(not (path / "manifest.json").exists())

    reader = threading.Thread(target=watch)
    reader.start()
    for index in range(20):
        write(path, manifest(f"task-{index}"))
    stop.set()
    reader.join()
    assert len(missing) > 100
    assert not any(missing)


def test_a_full_disk_in_the_block_is_one_clear_error(
    tmp_path: Path, manifest: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "bundle", manifest())
    before = content(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage())

    with (
        pytest.raises(
            BundleError,
            match=r"bundle: the disk is full \(No space left on device\); with 4 bytes of the "
            r"bundle in place, 1,234 bytes are free in .*choose another folder",
        ),
        BundleWriter(tmp_path / "bundle") as writer,
    ):
        writer.add("task.json", "half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert content(tmp_path) == before


class Usage:
    free = 1234


@pytest.mark.parametrize("call", ["fsync", "mkdir"])
def test_a_full_disk_in_the_writer_itself_is_one_clear_error(
    call: str, tmp_path: Path, manifest: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "bundle", manifest())
    before = content(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(BundleError, match="the disk is full"):
        write(tmp_path / "bundle", manifest())
    monkeypatch.undo()
    assert content(tmp_path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match="the disk is full"),
        BundleWriter(tmp_path / "bundle"),
        Path("/dev/full").open("wb", buffering=0) as device,
    ):
        device.write(b"x")
    assert os.listdir(tmp_path) == []


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with (
        pytest.raises(BundleError, match="holds files but is not a bundle, so it is not replaced"),
        BundleWriter(tmp_path / "photos"),
    ):
        pass
    # Browser extensions have a manifest.json too.
    (tmp_path / "photos" / "manifest.json").write_text('{"manifest_version": 3}')
    with pytest.raises(BundleError, match="is not a bundle"), BundleWriter(tmp_path / "photos"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="found a file"), BundleWriter(tmp_path / "file"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["file", "photos"]


def test_files_put_there_while_building_are_kept(tmp_path: Path, manifest: Make) -> None:
    with (
        pytest.raises(BundleError, match="is not a bundle"),
        BundleWriter(tmp_path / "bundle") as writer,
    ):
        writer.add("ort-cpu/engine.json", "x")
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "thesis.tex").touch()
        writer.commit(manifest())
    assert os.listdir(tmp_path / "bundle") == ["thesis.tex"]


def test_an_empty_folder_and_a_damaged_bundle_are_replaced(tmp_path: Path, manifest: Make) -> None:
    path = tmp_path / "bundle"
    path.mkdir()
    write(path, manifest("embedding"))
    (path / "manifest.json").write_bytes((path / "manifest.json").read_bytes()[:-9])
    write(path, manifest("fill-mask"))
    assert task_of(path) == "fill-mask"


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path, manifest: Make) -> None:
    write(tmp_path / "v1", manifest("embedding"))
    (tmp_path / "current").symlink_to("v1")
    write(tmp_path / "current", manifest("fill-mask"))
    assert (tmp_path / "current").is_symlink()
    assert task_of(tmp_path / "v1") == "fill-mask"


def test_links_and_foreign_names_are_not_committed(tmp_path: Path, manifest: Make) -> None:
    with (
        pytest.raises(BundleError, match=r"tokenizer\.json: is a link"),
        BundleWriter(tmp_path / "bundle") as writer,
    ):
        writer.add("ort-cpu/engine.json", "x")
        writer.path("tokenizer.json").symlink_to("/etc/hostname")
        writer.commit(manifest())
    with BundleWriter(tmp_path / "bundle") as writer:
        for name in ("../x", "/x", "a/../../x"):
            with pytest.raises(BundleError, match="not a plain relative path"):
                writer.add(name, "x")
    assert os.listdir(tmp_path) == []


def test_a_manifest_that_would_not_load_is_not_committed(tmp_path: Path, manifest: Make) -> None:
    with (
        pytest.raises(BundleError, match="'folder' must name one folder of files of its own"),
        BundleWriter(tmp_path / "bundle") as writer,
    ):
        writer.add("task.json", "x")
        writer.commit(manifest())
    assert os.listdir(tmp_path) == []


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path / "bundle")
    with pytest.raises(BundleError, match="use it in a with block"):
        writer.path("task.json")


def test_a_parent_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            BundleError, match=r"cannot write the bundle: .*(Not a directory|File exists)"
        ),
        BundleWriter(tmp_path / "file" / "bundle"),
    ):
        pass


def test_systems_without_renameat2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["old"]


def test_the_manifest_is_the_last_file_written(
    tmp_path: Path, manifest: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    if sys.platform == "linux":
        monkeypatch.setattr(os, "fsync", note)
        write(tmp_path / "bundle", manifest())
        assert order[:3] == ["engine.json", "task.json", "manifest.json"]
        assert order[-1] == tmp_path.name
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["schema"] == 1


def test_numpy_says_that_the_disk_is_full_without_a_number(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match=r"the disk is full \(64 requested and 8 written\)"),
        BundleWriter(tmp_path / "bundle"),
    ):
        raise OSError("64 requested and 8 written")
    assert os.listdir(tmp_path) == []


LIMITED = """
import resource, sys
import numpy
from fuselage.engines.bundle import BundleWriter
from fuselage.errors import BundleError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with BundleWriter(sys.argv[1]) as writer:
        if sys.argv[2] == "numpy":
            with writer.path("weights").open("wb") as file:
                numpy.zeros(1 << 20, numpy.uint8).tofile(file)
        writer.add("weights", bytes(1 << 20))
except BundleError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on files")
@pytest.mark.parametrize("writer", ["python", "numpy"])
def test_a_limit_on_files_is_not_called_a_full_disk(tmp_path: Path, writer: str) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "bundle"), writer]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "a file would be larger than this process or the file system of" in done.stdout
    assert "raise ulimit -f" in done.stdout
    assert "disk is full" not in done.stdout
    assert os.listdir(tmp_path) == []
