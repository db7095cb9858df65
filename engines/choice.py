"""Which engine of a bundle is tried first, and what is said when it is not the one that runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import BundleError
from .mismatch import Mismatch
from .targets import TARGETS

_VARIANT = "@"


class FallbackWarning(UserWarning):
    """Another target runs than the one asked for first."""


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """An engine that was asked for and does not run here.

    Attributes:
        target: its name in the bundle, for example ``tensorrt`` or ``tensorrt@SM90``.
        reason: what is missing and what to do.
        mismatches: fields in which this machine is not the one it was built for.
    """

    target: str
    reason: str
    mismatches: tuple[Mismatch, ...] = ()

    def __str__(self) -> str:
        fields = f" ({'; '.join(map(str, self.mismatches))})" if self.mismatches else ""
        return f"{self.target} does not run here: {self.reason}{fields}"


def base_target(name: str) -> str:
    """The target of an engine: ``tensorrt`` for ``tensorrt@SM90``."""
    return name.partition(_VARIANT)[0]


def variant(target: str, label: str) -> str:
    """Name of one of several engines of a target, for example ``tensorrt@SM90``."""
    return f"{base_target(target)}{_VARIANT}{label}"


def preferred(held: Iterable[str]) -> tuple[str, ...]:
    """The engines of a bundle, best first; targets that this fuselage does not know come last."""
    ranks = {name: rank for rank, name in enumerate(TARGETS)}
    return tuple(sorted(held, key=lambda name: (ranks.get(base_target(name), len(ranks)), name)))


def asked_order(target: str | None, fallback: tuple[str, ...], held: Iterable[str]) -> list[str]:
    """The targets to try, in the order that the user allows, without repeats.

    Raises:
        BundleError: on a name that is no target, which a fallback would hide otherwise.
    """
    asked = list(dict.fromkeys((target, *fallback) if target else fallback))
    known = {*held, *TARGETS}
    for name in asked:
        if name not in known:
            raise BundleError(
                f"target {name!r}: expected one of {', '.join(sorted(known))}; correct the "
                "target or the fallback"
            )
    return asked


def best_fit(fits: Mapping[str, tuple[Mismatch, ...]]) -> list[str]:
    """Several engines of one target, the one whose machine is most like this one first."""
    return sorted(fits, key=lambda name: len(fits[name]))
