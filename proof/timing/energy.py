"""Energy of the CPU packages by RAPL, where the kernel lets this user read it.

Source: https://docs.kernel.org/power/powercap/powercap.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")


@dataclass(frozen=True)
class Counter:
    """One package.

    Attributes:
        file: its counter of microjoules.
        wraps: where the counter starts again from 0.
    """

    file: Path
    wraps: int


@dataclass(frozen=True, kw_only=True)
class Meter:
    """All packages of this machine.

    Attributes:
        counters: one a package; empty when energy cannot be read.
        blocker: why it cannot; empty when it can.
    """

    counters: tuple[Counter, ...] = ()
    blocker: str = ""

    @classmethod
    def open(cls, root: Path = _ROOT) -> Meter:
        """Find the packages."""
        packages = sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]"))
        if not packages:
            return cls(blocker="this machine has no RAPL counters (/sys/class/powercap)")
        try:
            found = tuple(_counter(folder) for folder in packages)
        except PermissionError:
            file = packages[0] / "energy_uj"
            return cls(blocker=f"{file} is readable by root alone")
        except (OSError, ValueError) as error:
            return cls(blocker=f"RAPL cannot be read: {error}")
        return cls(counters=found)

    def read(self) -> tuple[int, ...]:
        """Microjoules so far, one entry a package."""
        try:
            return tuple(int(counter.file.read_text()) for counter in self.counters)
        except (OSError, ValueError):
            return ()

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float | None:
        """Energy between two readings; None when it cannot be read."""
        if not self.counters or not len(before) == len(after) == len(self.counters):
            return None
        pairs = zip(self.counters, before, after, strict=True)
        return sum((end - start) % counter.wraps for counter, start, end in pairs) / 1e6


def _counter(folder: Path) -> Counter:
    int((folder / "energy_uj").read_text())
    return Counter(folder / "energy_uj", int((folder / "max_energy_range_uj").read_text()))
