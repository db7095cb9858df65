"""What is opened in a folder, as the kernel tells it: by Python and by native code alike."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

_EVENTS = {0x1: "read", 0x2: "written", 0x20: "opened"}
_EVENT = struct.Struct("iIII")


class Watch:
    """Counts what is opened in some folders, or of some files; Linux.

    Source: inotify(7).
    """

    def __init__(self, *paths: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        for path in paths:
            name = os.fsencode(path)
            if self._libc.inotify_add_watch(self._descriptor, name, sum(_EVENTS)) < 0:
                raise OSError(ctypes.get_errno(), f"cannot watch {path}")

    def opened(self) -> tuple[str, ...]:
        """What happened since the last call, such as ``opened secret``."""
        try:
            events = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return ()
        found = []
        at = 0
        while at < len(events):
            _, mask, _, size = _EVENT.unpack_from(events, at)
            name = events[at + _EVENT.size : at + _EVENT.size + size].rstrip(b"\0")
            words = [word for bit, word in _EVENTS.items() if mask & bit]
            found.append(f"{' and '.join(words)} {name.decode()}".strip())
            at += _EVENT.size + size
        return tuple(dict.fromkeys(found))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
