"""Give GPU resources back in any state the GPU may be in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress

from ....errors import DeviceError


def give_back(stack: ExitStack, release: Callable[[int], None], handle: int) -> int:
    """Release a handle when the stack closes.

    After a fatal CUDA error it is gone already and releasing fails; that error was raised before.

    Returns:
        The handle.
    """
    stack.callback(_quietly, release, handle)
    return handle


def _quietly(release: Callable[[int], None], handle: int) -> None:
    with suppress(DeviceError):
        release(handle)
