"""Let a loop finish its round before Ctrl-C or SIGTERM takes effect."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Holds SIGINT and SIGTERM back while a block runs, then lets them act as they would have.

    A second one acts at once. Outside the main thread, where Python handles no signals, and for
    signals that are ignored, nothing changes.

    Attributes:
        pending: the signal that waits, None when there is none; a loop should look and leave.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self.pending = None
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._hold)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        if self.pending is not None:
            signal.raise_signal(self.pending)

    def _hold(self, number: int, _frame: FrameType | None) -> None:
        if self.pending is None:
            self.pending = number
            return
        self._restore()
        signal.raise_signal(number)

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]
