"""Clocks, power and throttling of NVIDIA GPUs, where the package nvidia-ml-py is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

_THROTTLES: Mapping[int, str] = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}
"""Bits of nvmlClocksEventReasons that slow a GPU down. Source: NVML API reference."""


def nvidia_state(nvml: Any = None) -> list[dict[str, Any]]:
    """State of each GPU now.

    Args:
        nvml: the module ``pynvml``; None imports it.

    Returns:
        For each GPU ``sm_mhz``, ``memory_mhz``, ``watts``, ``celsius`` and ``throttled`` (reasons),
        each as far as the GPU tells; empty without NVML or a driver.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        return [_state(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def _state(nvml: Any, index: int) -> dict[str, Any]:
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    readings: Mapping[str, Callable[[], Any]] = {
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM),
        "watts": lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1000,
        "celsius": lambda: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
        "throttled": lambda: _reasons(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)),
    }
    state = {}
    for name, read in readings.items():
        try:
            state[name] = read()
        except nvml.NVMLError:
            continue  # not every GPU tells everything
    return state


def _reasons(bits: int) -> str:
    return ", ".join(name for bit, name in _THROTTLES.items() if bits & bit) or "no"
