"""A folder that appears, or is replaced, all at once; and the remains of builds that died.

A build works in ``.NAME.building-TOKEN`` beside its destination and holds a lock on that folder.
The kernel drops the lock with the process, whichever way it ends, so an unlocked folder is a dead
build's. Where the file system has no such locks, remains are left alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)


class WorkFolder:
    """An empty folder beside a destination, locked while this object is open.

    Attributes:
        path: the folder.
    """

    def __init__(self, destination: Path) -> None:
        self._lock: int | None = None
        while True:
            self.path = _beside(destination, "building")
            self.path.mkdir()
            # The sweep of another build may lock, and then remove, the folder before we lock it.
            with contextlib.suppress(FileNotFoundError):
                self._lock = _lock(self.path)
            if self.path.is_dir():
                return
            self.close()

    def close(self) -> None:
        """Give the lock back and remove the folder if it is still there; idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextlib.contextmanager
def only_writer(destination: Path) -> Iterator[None]:
    """Keep other writers beside ``destination`` out while looking at it and moving it.

    Without locks (Windows, some network file systems) it keeps nobody out.
    """
    lock = _lock(destination.parent)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def replace_folder(source: Path, destination: Path) -> None:
    """Put ``source`` in the place of ``destination``; the last of several writers wins.

    Whoever looks at ``destination`` sees the old content or the new, never a mixture. On Linux it
    never even is away; elsewhere it is for the moment between two renames, and `sweep` puts the
    old one back when a process dies there.

    Raises:
        OSError: when the file system refuses; ``destination`` is then what it was.
    """
    while True:
        try:
            source.rename(destination)
            break
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
        if _exchange(source, destination):
            shutil.rmtree(source, ignore_errors=True)
            break
        retired = _beside(destination, "retired")
        with contextlib.suppress(FileNotFoundError):  # another writer took it away first
            destination.rename(retired)
    for retired in destination.parent.glob(f".{_escaped(destination.name)}.retired-*"):
        _discard(retired)


def sweep(destination: Path) -> None:
    """Clear what dead builds left beside ``destination``, and finish a replacement they began."""
    parent, name = destination.parent, _escaped(destination.name)
    for retired in sorted(parent.glob(f".{name}.retired-*")):
        with contextlib.suppress(OSError):  # there is a newer one in place
            retired.rename(destination)
        _discard(retired)
    for folder in parent.glob(f".{name}.building-*"):
        _remove_if_dead(folder)


def _discard(retired: Path) -> None:
    """Remove a retired folder under a name that nobody would put back half removed."""
    dead = retired.with_name(retired.name.replace(".retired-", ".building-"))
    with contextlib.suppress(OSError):
        retired.rename(dead)
        shutil.rmtree(dead, ignore_errors=True)


def _remove_if_dead(folder: Path) -> None:
    try:
        lock = _lock(folder, wait=False)
    except OSError:  # alive, or gone
        return
    if lock is None:
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _beside(destination: Path, state: str) -> Path:
    return destination.parent / f".{destination.name}.{state}-{secrets.token_hex(4)}"


def _escaped(name: str) -> str:
    """The name as a glob pattern that matches it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


if sys.platform == "win32":

    def _lock(folder: Path, *, wait: bool = True) -> int | None:
        del folder, wait  # Windows locks no folders

else:
    import fcntl

    def _lock(folder: Path, *, wait: bool = True) -> int | None:
        """Descriptor that holds the folder's lock, None when the file system has no locks.

        Raises:
            BlockingIOError: when another process holds it and ``wait`` is False.
            FileNotFoundError: when the folder is gone and ``wait`` is False.
        """
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:
            os.close(descriptor)
            return None
        return descriptor


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system cannot.

    Source: renameat2(2), Linux 3.15 and glibc 2.28.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    old, new = os.fsencode(one), os.fsencode(other)
    return int(renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_EXCHANGE)) == 0
