"""A lock a key, held by one process or thread at a time and dropped with its holder."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def key_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock that a file stands for.

    The kernel drops it with the process, whichever way it ends. Where the file system has no such
    locks, or the file cannot be made, it keeps nobody out: the work is then done twice, and the
    last product wins.

    Args:
        path: the file; it is there while the lock is held.
        on_wait: called before waiting for another holder.
    """
    descriptor = _acquire(path, on_wait)
    try:
        yield
    finally:
        if descriptor is not None:
            # Under the lock, so that whoever waits finds that the file is gone and begins anew.
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)


def sweep_lock(path: Path) -> None:
    """Remove the file of a lock that nobody holds; one that was just made is made again."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return
    with contextlib.suppress(OSError):
        # Under the lock, as its holder does: who locks the file next finds that it is gone.
        if _lock(descriptor, wait=False):
            path.unlink()
    os.close(descriptor)


def _acquire(path: Path, on_wait: Callable[[], None]) -> int | None:
    while True:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return None
        try:
            if not _lock(descriptor, wait=False):
                on_wait()
                _lock(descriptor, wait=True)
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_current(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_current(descriptor: int, path: Path) -> bool:
    """Whether the file that was locked is still the one at the path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


if sys.platform == "win32":

    def _lock(descriptor: int, *, wait: bool) -> bool:
        del wait
        raise OSError(descriptor, "no advisory locks here")

else:
    import fcntl

    def _lock(descriptor: int, *, wait: bool) -> bool:
        """Lock; False when another holds it and ``wait`` is False.

        Raises:
            OSError: when the file system has no locks.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True
