"""Where what can be made again is kept between builds, and how large that may grow."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...errors import BuildError

FOLDER, LIMIT = "FUSELAGE_CACHE", "FUSELAGE_CACHE_LIMIT"
"""Environment variables."""

CALIBRATION = "calibration"
"""Folder of the statistics of calibration below the cache."""

DEFAULT_LIMIT = 10 * 10**9

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?b?)", re.IGNORECASE)


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


def cache_limit() -> int:
    """Bytes the cache may hold: ``$FUSELAGE_CACHE_LIMIT``, else 10 GB.

    Raises:
        BuildError: when the variable is no size.
    """
    text = os.environ.get(LIMIT)
    return parse_size(text, LIMIT) if text else DEFAULT_LIMIT


def parse_size(text: str, origin: str) -> int:
    """Bytes of ``5GB``, ``500 MB`` or ``1000``; a kB is 1,000 bytes.

    Raises:
        BuildError: when it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise BuildError(f"{origin} {text!r}: expected a size such as 5GB, 500MB or 0")
    unit = found[2].lower()
    return int(float(found[1]) * _UNITS[unit if unit in _UNITS else f"{unit}b"])
