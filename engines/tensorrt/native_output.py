"""Catch what TensorRT's compiler prints past its logger, so that stdout stays ours."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .log import LogLines

_STDOUT = 1
_LOCK = threading.Lock()


@contextmanager
def native_output(lines: LogLines) -> Iterator[None]:
    """Move the warnings that native code writes to standard output into the log.

    tensorrt_rtx 1.7.1 reports constants that lose precision by a bare print, which would break
    the output of ``--json``. Anything else written meanwhile is passed on afterwards, so
    progress that should move during a build belongs on standard error.

    Args:
        lines: where the warnings go.
    """
    with _LOCK, tempfile.TemporaryFile() as caught:
        _flush()
        try:
            saved = os.dup(_STDOUT)
        except OSError:  # a process without standard output has nothing to protect
            yield
            return
        os.dup2(caught.fileno(), _STDOUT)
        try:
            yield
        finally:
            _flush()
            os.dup2(saved, _STDOUT)
            os.close(saved)
            caught.seek(0)
            _pass_on(lines.add_native(caught.read().decode(errors="replace")))


def _pass_on(text: str) -> None:
    if text:
        os.write(_STDOUT, f"{text}\n".encode())


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
