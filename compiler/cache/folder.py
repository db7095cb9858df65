"""Where what can be made again is kept between builds, and how large that may grow."""

from __future__ import annotations

import os
import re

from ...engines.user_cache import FOLDER, cache_folder
from ...errors import BuildError

__all__ = [
    "CALIBRATION",
    "DEFAULT_LIMIT",
    "FILES",
    "FOLDER",
    "LIMIT",
    "cache_folder",
    "cache_limit",
    "parse_size",
]

LIMIT = "FUSELAGE_CACHE_LIMIT"
"""Environment variable."""

CALIBRATION = "calibration"
"""Folder of the statistics of calibration below the cache."""

FILES = (CALIBRATION, "tensorrt-kernels")
"""Folders of single files: statistics, and what TensorRT-RTX compiled when engines ran."""

DEFAULT_LIMIT = 10 * 10**9

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?b?)", re.IGNORECASE)


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
