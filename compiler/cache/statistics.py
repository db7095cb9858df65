"""The statistics of calibration, below the same roof as the products of stages."""

from __future__ import annotations

from ...calibration.statistics.profile_store import ProfileStore
from .eviction import shrink
from .folder import CALIBRATION
from .store import Store


def calibration_store(store: Store | None) -> ProfileStore | None:
    """Where calibration keeps what it has seen so far; None without a cache."""
    if store is None:
        return None
    return ProfileStore(
        store.root / CALIBRATION,
        make_room=lambda newest: shrink(store.root, store.limit_bytes, newest=newest),
        note=store.note,
    )
