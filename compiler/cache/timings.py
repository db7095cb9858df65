"""TensorRT's measurements of kernels: one entry for each version, GPU and driver."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass

from ...engines import host
from ...engines.folder_swap import WorkFolder
from .entry import DamagedEntryError, hash_files
from .key import StageKey
from .store import STAGES, Store

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
        try:
            content = (entry.folder / _FILE).read_bytes()
        except OSError:  # another process has just removed it
            return None
        if hashlib.sha256(content).hexdigest() != entry.files[_FILE].sha256:
            damage = DamagedEntryError(f"{entry.folder / _FILE}: is not what was kept")
            self.store.discard(self.key, damage)
            return None
        return content

    def update(self, merge: Callable[[bytes | None], bytes]) -> None:
        """Keep what ``merge`` makes of what is there by then; one process at a time."""
        with self.store.locked(self.key), suppress(OSError):
            newest = self.read()
            content = merge(newest)
            if content == newest:
                return
            stage = self.store.root / STAGES / STAGE
            stage.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Below the cache, where the next build sweeps what a killed one leaves.
            with closing(WorkFolder(stage / self.key.digest)) as work:
                (work.path / _FILE).write_bytes(content)
                self.store.keep(self.key, {}, work.path, hash_files(work.path))
