"""Measurements of kernels that TensorRT takes while it builds, kept for the next build.

TensorRT-RTX measures nothing before it runs; its timing caches are deprecated and empty.
"""

from __future__ import annotations

from typing import Any

from ..base import TimingStore
from .flavour import Flavour
from .log import LogLines


class Timings:
    """The timing cache of one build.

    Args:
        store: where measurements are kept; None to keep and take none.

    Attributes:
        notes: what the user should know: measurements that TensorRT does not take.
    """

    def __init__(self, store: TimingStore | None) -> None:
        self.notes: list[str] = []
        self._store = store
        self._rejected: bytes | None = None

    @classmethod
    def of(cls, flavour: Flavour, store: TimingStore | None) -> Timings:
        """Of a flavour; one that compiles ahead of time has none."""
        return cls(None if flavour.builds_without_gpu else store)

    def attach(self, builder_config: Any, lines: LogLines) -> None:
        """Give the builder what is kept; what it rejects is left out with a note."""
        if self._store is None:
            return
        kept = self._store.read()
        if kept is not None and self._accepted(builder_config, kept, lines):
            return
        timing_cache = builder_config.create_timing_cache(b"")
        builder_config.set_timing_cache(timing_cache, False)

    def keep(self, builder_config: Any, lines: LogLines) -> None:
        """Add what was measured to what is kept, also to what others kept meanwhile."""
        timing_cache = builder_config.get_timing_cache() if self._store else None
        if self._store is None or timing_cache is None:
            return

        def merge(newest: bytes | None) -> bytes:
            if newest is not None and newest != self._rejected:
                other = builder_config.create_timing_cache(newest)
                if other is not None:
                    timing_cache.combine(other, False)
            return bytes(timing_cache.serialize())

        before = lines.mark()
        self._store.update(merge)
        lines.take_since(before)

    def _accepted(self, builder_config: Any, kept: bytes, lines: LogLines) -> bool:
        # TensorRT answers what it cannot read with an empty cache and a line in the log, which
        # must not count as a fault of the build.
        before = lines.mark()
        timing_cache = builder_config.create_timing_cache(kept)
        taken = timing_cache is not None and builder_config.set_timing_cache(timing_cache, False)
        problems = lines.take_since(before)
        if taken and not problems:
            return True
        self._rejected = kept
        reason = problems or "it is of another GPU, driver or version"
        self.notes.append(
            f"the timings of kernels kept from earlier builds were not used ({reason}); kernels "
            "are timed again"
        )
        return False
