"""Where what can be made again is kept for a user."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = "FUSELAGE_CACHE"
"""Environment variable."""


def cache_folder() -> Path | None:
    """``$FUSELAGE_CACHE``, else ``fuselage`` below ``$XDG_CACHE_HOME``, else below ``~/.cache``.

    A relative ``$XDG_CACHE_HOME`` does not count, as the XDG base directory specification says.

    Returns:
        The folder, there or not; None for a user without a home.
    """
    ours = os.environ.get(FOLDER)
    if ours:
        return Path(ours).expanduser().absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():
        return shared / "fuselage"
    try:
        return Path.home() / ".cache" / "fuselage"
    except RuntimeError:
        return None
