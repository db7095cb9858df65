"""Who gets which slot of which lane; and the end, when nobody gets one any more."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ....errors import DeviceError
from .lane import Lane
from .slot import Slot


class SlotPool:
    """Hands out slots to threads. Thread-safe.

    A lone caller always gets the same slot, so that its graphs are recorded once; callers at the
    same time are spread over the lanes before they share one.

    Args:
        lanes: the lanes of one engine.
        name: the target, for errors.
    """

    def __init__(self, lanes: tuple[Lane, ...], name: str) -> None:
        self._free = [(lane, list(lane.slots)) for lane in lanes]
        self._name = name
        self._busy = 0
        self._held = 0
        self._end: str | None = None
        self._changed = threading.Condition()
        self._process = os.getpid()

    def acquire(self) -> tuple[Lane, Slot]:
        """Wait for a slot.

        Raises:
            DeviceError: when the engine is closed, its GPU was lost, or this process is forked off
                the one that opened it.
        """
        self._check_process()
        with self._changed:
            while True:
                self._check_open()
                lane, slots = max(self._free, key=_count)
                if slots and not self._held:
                    self._busy += 1
                    return lane, slots.pop(0)
                self._changed.wait()

    def release(self, lane: Lane, slot: Slot) -> None:
        """Give a slot back."""
        with self._changed:
            slots = next(slots for owner, slots in self._free if owner is lane)
            slots.append(slot)
            slots.sort(key=_index)
            self._busy -= 1
            if self._end or self._held:  # who waits for the last call waits beside the others
                self._changed.notify_all()
            else:
                self._changed.notify()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for the calls under way; those that come meanwhile wait until this is over.

        Raises:
            DeviceError: when the engine is closed, or was condemned, or belongs to another process.
        """
        self._check_process()
        with self._changed:
            self._held += 1
            try:
                while self._busy:
                    self._changed.wait()
                self._check_open()
                yield
            finally:
                self._held -= 1
                self._changed.notify_all()

    def condemn(self, end: str) -> None:
        """Refuse every further call.

        Args:
            end: what became of the engine, to follow its name in a sentence.
        """
        with self._changed:
            self._end = self._end or end
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse every further call and wait for those under way."""
        with self._changed:
            self._end = self._end or "is closed; load it again"
            self._changed.notify_all()
            while self._busy:
                self._changed.wait()

    @property
    def is_foreign(self) -> bool:
        """Whether this process is forked off the one that opened the engine."""
        return os.getpid() != self._process

    def _check_process(self) -> None:
        # Before any lock: a thread that is not here may have held it when the process was forked.
        if self.is_foreign:
            raise DeviceError(
                f"this {self._name} engine was opened by the process {self._process}, and a GPU "
                "does not follow a fork; load the engine in this process, which must not be forked "
                'off one that uses CUDA (multiprocessing: the start method "spawn")'
            )

    def _check_open(self) -> None:
        if self._end is not None:
            raise DeviceError(f"this {self._name} engine {self._end}")


def _count(item: tuple[Lane, list[Slot]]) -> int:
    return len(item[1])


def _index(slot: Slot) -> int:
    return slot.index
