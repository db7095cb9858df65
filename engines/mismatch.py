"""In what a machine differs from the one that an engine was built for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mismatch:
    """One field that differs.

    Attributes:
        field: ``package``, ``version``, ``compute capability``, ``GPU``, ``driver``,
            ``CPU architecture`` or ``CPU flags``.
        expected: what the engine was built with or for.
        got: what is here.
    """

    field: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, got {self.got}"
