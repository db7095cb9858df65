"""The statistics of calibration, below the same roof as the products of stages."""

from __future__ import annotations

from ...calibration.statistics.profile_store import ProfileStore
from .folder import CALIBRATION
from .store import Store


def calibration_store(store: Store | None) -> ProfileStore | None:
    """Where calibration keeps what it has seen so far; None without a cache."""
    if store is None:
        return None
    limit = min(ProfileStore.limit_bytes, store.limit_bytes)
    return ProfileStore(store.root / CALIBRATION, limit_bytes=limit, note=store.note)
