"""Run a command in a process of its own, so that a crash in native code ends in one message.

A model from outside can take down what reads it: ONNX Runtime 1.31 divides by zero on a
SplitToSequence into parts of 0, and a constant of 2^40 elements is worth the whole memory. The
process forks before anything heavy is imported, which costs a millisecond.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from .console import say_error
from .trouble import JUDGING, TROUBLE

TRUSTED = {
    "build": "PyTorch reads the model, and may reserve more memory than there is",
    "export": "likewise",
    "verify": "it hashes the files of a bundle; --rebuild is a build",
    "doctor": "it reads no model",
    "tune": "it reads no model",
    "cache": "it reads no model",
}
"""Commands that run in this process, and why. Every other has a file from anywhere as its subject:
a new one is isolated unless it stands here.
"""

_STANDARD_INPUT = "-"
_FORWARDED = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1
_CGROUP = Path("/sys/fs/cgroup/memory.max")

Run = Callable[[Sequence[str]], int]


def run_isolated(run: Run, arguments: Sequence[str]) -> int:
    """Run a command, in a process of its own where its subject may crash it.

    Returns:
        What the command returns; 1 with a message when its process died, or 2 when it was to judge.
    """
    if sys.platform == "win32" or not arguments or _is_trusted(arguments[0]):
        return run(arguments)
    reads_terminal = _STANDARD_INPUT in arguments  # only its foreground group may
    parent, child = os.getpid(), os.fork()
    if not child:
        if not reads_terminal:
            os.setpgid(0, 0)  # Ctrl-C comes through the parent, and so once
        signal.signal(signal.SIGTERM, _leave)
        _end_with(parent)
        _limit_memory()
        return run(arguments)
    asked: list[int] = []
    for number in _FORWARDED:
        signal.signal(number, lambda got, _: _forward(child, got, asked))
    if reads_terminal:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells both
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code >= 0:
        return code
    if -code in _FORWARDED:
        return 128 - code
    if asked:  # native code may die of an interrupt that meets it on its way out
        say_error("interrupted")
        return 128 + asked[0]
    words = [word for word in arguments[1:] if not word.startswith("-")]
    subject = next((word for word in words if Path(word).exists()), (words or arguments)[0])
    hint = "it ran out of memory" if -code == signal.SIGKILL else "the model is damaged"
    say_error(
        f"{subject}: native code (onnx, ONNX Runtime or TensorRT) died of "
        f"{signal.Signals(-code).name} on it; perhaps {hint}; a file it was writing is whole or "
        "not there"
    )
    return TROUBLE if arguments[0] in JUDGING else 1


def _is_trusted(verb: str) -> bool:
    return verb in TRUSTED or verb.startswith("-")


def _forward(child: int, number: int, asked: list[int]) -> None:
    asked.append(number)
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return  # it ended a moment ago


def _leave(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)  # not at once: what is half written goes first


def _end_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent is killed, which nobody can forward."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died in between
        _leave(signal.SIGTERM, None)


def _limit_memory() -> None:
    """No more than there is: an allocation beyond fails, where the kernel would kill at random."""
    import resource

    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = _CGROUP.read_text().strip() if _CGROUP.is_file() else ""
    if text.isdecimal():
        available = min(available, int(text))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > available:
        resource.setrlimit(resource.RLIMIT_DATA, (available, hard))
