"""TensorRT's measurements of kernels: one entry for each version, GPU and driver."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ...engines import host
from .entry import DamagedEntryError, hash_files
from .key import StageKey
from .store import Store

STAGE = "timings"
_FILE = "timing.cache"


@dataclass(frozen=True)
class StoredTimings:
    """A `TimingStore` in the cache: hashed, locked while it changes, and gone by its limit.

    Attributes:
        store: the cache.
        key: what the measurements hold for.
    """

    store: Store
    key: StageKey

    @classmethod
    def of(cls, store: Store | None, target: str) -> StoredTimings | None:
        """The measurements for this machine; None without a cache."""
        if store is None:
            return None
        fields = {
            "versions": host.package_versions((target,)),
            "gpus": [asdict(gpu) for gpu in host.gpus()],
            "driver": host.nvidia_driver(),
        }
        return cls(store, StageKey(stage=STAGE, model="any", target=target, fields=fields))

    def read(self) -> bytes | None:
        """What is kept; None when nothing is, or it is damaged, which is noted."""
        entry = self.store.find(self.key)
        if entry is None:
            return None
        with tempfile.TemporaryDirectory(prefix="fuselage-timings-") as folder, suppress(OSError):
            path = Path(folder) / _FILE
            try:
                entry.copy(_FILE, path)
            except DamagedEntryError as error:
                self.store.discard(self.key, error)
                return None
            return path.read_bytes()
        return None

    def update(self, merge: Callable[[bytes | None], bytes]) -> None:
        """Keep what ``merge`` makes of what is there by then; one process at a time."""
        with (
            self.store.locked(self.key),
            tempfile.TemporaryDirectory(prefix="fuselage-timings-") as folder,
            suppress(OSError),
        ):
            newest = self.read()
            content = merge(newest)
            if content != newest:
                (Path(folder) / _FILE).write_bytes(content)
                self.store.keep(self.key, {}, Path(folder), hash_files(Path(folder)))
