"""Lines of UTF-8 text from bytes that may be anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ...errors import CalibrationError

LONGEST_LINE = 1 << 20
"""Bytes; a longer line is no text that a model reads at once, and would not fit in memory."""


def decoded(path: Path, file: BinaryIO) -> Iterator[str]:
    """Lines with their ends, a byte order mark dropped; only a line feed ends a line.

    Args:
        path: names the file in errors.
        file: is read one line at a time.

    Raises:
        CalibrationError: for a NUL byte, bytes that are not UTF-8, or a line beyond
            `LONGEST_LINE`; it names the line.
    """
    number = 0
    while raw := file.readline(LONGEST_LINE + 1):
        number += 1
        if b"\0" in raw:
            raise CalibrationError(
                f"{path}: line {number} holds a NUL byte; expected UTF-8 text, one text a "
                "line, this looks like a binary or UTF-16 file"
            )
        if len(raw) > LONGEST_LINE:
            raise CalibrationError(
                f"{path}: line {number} is longer than {LONGEST_LINE:,} bytes; expected one text "
                "a line, split it"
            )
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise CalibrationError(
                f"{path}: line {number} is not UTF-8 (byte {raw[error.start]:#04x} at column "
                f"{error.start + 1}); convert the file to UTF-8"
            ) from error
