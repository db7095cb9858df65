"""Where what can be made again is kept between builds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...calibration.statistics.profile_store import ProfileStore

VARIABLE = "FUSELAGE_CACHE"


def cache_folder() -> Path | None:
    """``$FUSELAGE_CACHE``, else ``fuselage`` below ``$XDG_CACHE_HOME``, else below ``~/.cache``.

    A relative ``$XDG_CACHE_HOME`` does not count, as the XDG base directory specification says.

    Returns:
        The folder, there or not; None for a user without a home.
    """
    ours = os.environ.get(VARIABLE)
    if ours:
        return Path(ours).expanduser().absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():
        return shared / "fuselage"
    try:
        return Path.home() / ".cache" / "fuselage"
    except RuntimeError:
        return None


def calibration_store(note: Callable[[str], None]) -> ProfileStore | None:
    """The store of calibration statistics; None where there is no place for it."""
    folder = cache_folder()
    return None if folder is None else ProfileStore(folder / "calibration", note=note)
