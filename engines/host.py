"""What this machine is: packages, CPU, cores we may use, NVIDIA driver and GPUs, load.

Nothing heavy is imported: `/proc`, `/sys`, `importlib.metadata`, and libcuda through ctypes. Every
reader of a file takes ``root`` so that a test, or a container that mounts the host's files, can
point elsewhere.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "numpy",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "torch",
    "transformers",
    "polygraphy",
)
"""Distributions whose versions decide what can be built and run here."""

# The sets MLAS, the CPU kernels of ONNX Runtime, dispatches on, in the spelling of /proc/cpuinfo:
# https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/mlas/lib/platform.cpp
_X86_FLAGS = (
    "sse4_1 avx f16c fma avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16 "
    "avx512_fp16 avx_vnni avx_vnni_int8 avx_ne_convert amx_tile amx_int8 amx_bf16 amx_fp16"
)
_ARM_FLAGS = "asimd fphp asimdhp asimddp asimdfhm i8mm bf16 sve sve2 svei8mm svebf16 sme sme2"

_ROOT = Path("/")


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """The processor as far as it decides which kernels run and how many threads pay.

    Attributes:
        model: marketing name; empty when the system does not tell.
        arch: for example ``x86_64`` or ``aarch64``.
        flags: instruction sets that ONNX Runtime's kernels dispatch on; empty when unknown.
        physical_cores: cores this process may use, see `physical_cores`.
    """

    model: str
    arch: str
    flags: tuple[str, ...]
    physical_cores: int


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU that the driver offers to this process.

    Attributes:
        name: for example ``NVIDIA H200``.
        compute_capability: for example ``SM90``.
        memory_bytes: total device memory.
    """

    name: str
    compute_capability: str
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Host:
    """One snapshot of this machine, for `doctor`, reports and engines.

    Attributes:
        system: operating system and release.
        python: version of the interpreter.
        cpu: the processor.
        driver: version of the NVIDIA kernel driver, None without one.
        gpus: empty without a driver that answers.
        load_average: of the last minute, None where the system keeps none.
        packages: distribution -> version of those in `PACKAGES` that are installed.
    """

    system: str
    python: str
    cpu: Cpu
    driver: str | None
    gpus: tuple[Gpu, ...]
    load_average: float | None
    packages: Mapping[str, str]


def probe() -> Host:
    """Look at this machine; takes milliseconds without a GPU, the driver's start-up with one."""
    return Host(
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        cpu=cpu(),
        driver=nvidia_driver(),
        gpus=gpus(),
        load_average=load_average(),
        packages=package_versions(),
    )


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of the installed ones among ``names``; nothing is imported."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def load_average() -> float | None:
    """Runnable processes over the last minute, None where the system keeps no such count."""
    return os.getloadavg()[0] if sys.platform != "win32" else None


def cpu(root: Path = _ROOT) -> Cpu:
    """The processor of this machine."""
    fields = _cpuinfo(root)
    listed = set((fields.get("flags") or fields.get("Features") or "").split())
    return Cpu(
        model=fields.get("model name", ""),
        arch=platform.machine(),
        flags=tuple(flag for flag in f"{_X86_FLAGS} {_ARM_FLAGS}".split() if flag in listed),
        physical_cores=physical_cores(root),
    )


def has_vnni() -> bool:
    """Whether this CPU multiplies uint8 by int8 without saturating in between."""
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(cpu().flags)


def physical_cores(root: Path = _ROOT) -> int:
    """Physical cores this process may use: affinity mask, then hyper-threads, then cgroup quota.

    ONNX Runtime's own default counts the cores of the machine, so a container with a quota of two
    CPUs on a 64-core host would start 64 threads and be throttled.

    Returns:
        At least 1; a fractional quota is rounded up.
    """
    allowed = _allowed_cpus()
    cores = len({_siblings(root, index) for index in allowed})
    quota = _cpu_quota(root)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _allowed_cpus() -> set[int]:
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    else:  # noqa: RET505 - mypy reads only one branch of a platform check
        return set(range(os.cpu_count() or 1))


def _siblings(root: Path, index: int) -> str:
    topology = root / f"sys/devices/system/cpu/cpu{index}/topology/thread_siblings_list"
    return _read(topology) or f"cpu {index}"


def _cpu_quota(root: Path) -> float | None:
    """CPUs of the tightest cgroup quota above this process, v1 or v2; None without a limit."""
    quotas: list[float] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, group = line.split(":", 2)
        if number == "0":
            quotas += _quotas(root / "sys/fs/cgroup", group, _quota_v2)
        elif "cpu" in controllers.split(","):
            # A container sees its own group as the root of the mount, so both ends are looked at.
            quotas += _quotas(root / "sys/fs/cgroup/cpu", group, _quota_v1)
    return min(quotas, default=None)


def _quotas(mount: Path, group: str, read: Callable[[Path], float | None]) -> list[float]:
    inner = mount / group.lstrip("/")
    folders = [inner, *(up for up in inner.parents if up.is_relative_to(mount))]
    return [quota for folder in folders if (quota := read(folder)) is not None]


def _quota_v2(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _quota_v1(folder: Path) -> float | None:
    quota = _read(folder / "cpu.cfs_quota_us")
    period = _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def nvidia_driver(root: Path = _ROOT) -> str | None:
    """Version of the NVIDIA kernel driver, for example ``580.65.06``; None without one."""
    for word in _read(root / "proc/driver/nvidia/version").split():
        if word.replace(".", "").isdecimal() and "." in word:
            return word
    return None


def gpus() -> tuple[Gpu, ...]:
    """GPUs the CUDA driver offers to this process; empty without a driver that answers.

    Source: CUDA driver API, cuDeviceGetAttribute (75 and 76 are the compute capability).
    """
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        return _gpus(cuda)
    except (OSError, AttributeError):  # no driver library, or a stub without these symbols
        return ()


def _gpus(cuda: ctypes.CDLL) -> tuple[Gpu, ...]:
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_gpu(cuda, index) for index in range(count.value))


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    total, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, 256, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"SM{major.value}{minor.value}",
        memory_bytes=total.value,
    )


def _cpuinfo(root: Path) -> dict[str, str]:
    """Fields of the first processor."""
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        if not line.strip() and fields:
            break
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return fields


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
