"""Tensors of other libraries in and out of a session by IO binding, without a copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import FeedError
from ...graph.tensors import Array
from ..base import DlpackTensor
from .session import dtype_name, message


def borrow(feeds: Mapping[str, DlpackTensor], device: str) -> dict[str, Any]:
    """Each tensor as an ``OrtValue`` in the same memory.

    Args:
        feeds: tensors whose content is ready.
        device: where they must be, ``cpu`` or ``cuda``.

    Raises:
        FeedError: on what is no contiguous tensor on this device.
    """
    return {name: _borrow(name, tensor, device) for name, tensor in feeds.items()}


def stand_ins(values: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays without memory of the same dtypes and shapes, for the checks of other arrays."""
    return {
        name: np.broadcast_to(np.empty((), dtype_name(value.data_type())), tuple(value.shape()))
        for name, value in values.items()
    }


def run_bound(
    session: Any, values: Mapping[str, Any], outputs: list[str], device: str
) -> dict[str, Any]:
    """Run on the memory bound; the outputs are ``OrtValues`` on the same device, finished."""
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for name in outputs:
        binding.bind_output(name, device)
    # ONNX Runtime's stream waits for no other; a library may still be writing on one of its own.
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    return dict(zip(outputs, binding.get_outputs(), strict=True))


def _borrow(name: str, tensor: DlpackTensor, device: str) -> Any:
    from onnxruntime import OrtValue

    try:
        value = OrtValue.from_dlpack(tensor)
    except Exception as error:  # each ONNX Runtime status is its own subclass of Exception
        raise FeedError(
            f"feed {name!r}: expected a contiguous DLPack tensor, got {type(tensor).__name__} "
            f"({message(error)})"
        ) from error
    if value.device_name().lower() != device:
        raise FeedError(
            f"feed {name!r}: expected a tensor on the engine's device ({device}), got one on "
            f"{value.device_name()}; move it there"
        )
    return value
