from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from fuselage.engines import host

X86 = """processor\t: 0
model name\t: Some CPU @ 2 GHz
flags\t\t: fpu sse4_1 avx avx2 fma avx512f avx512_vnni avx_vnni amx_int8 rdtscp

processor\t: 1
model name\t: Another CPU
flags\t\t: fpu
"""
ARM = """processor\t: 0
Features\t: fp asimd aes asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 4 cores with 2 threads each, all allowed, no quota."""
    for index in range(8):
        write(
            tmp_path / f"sys/devices/system/cpu/cpu{index}/topology/thread_siblings_list",
            f"{index % 4},{index % 4 + 4}\n",
        )
    monkeypatch.setattr(host, "_allowed_cpus", lambda: set(range(8)))
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_flags_are_those_the_kernels_dispatch_on(root: Path) -> None:
    write(root / "proc/cpuinfo", X86)
    cpu = host.cpu(root)
    assert cpu.model == "Some CPU @ 2 GHz"
    assert cpu.flags == (
        *("sse4_1", "avx", "fma", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
    )
    assert cpu.physical_cores == 4


def test_arm_features_are_read_too(root: Path) -> None:
    write(root / "proc/cpuinfo", ARM)
    cpu = host.cpu(root)
    assert cpu.flags == ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve")
    assert cpu.model == ""


def test_hyper_threads_count_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.physical_cores(root) == 4
    monkeypatch.setattr(host, "_allowed_cpus", lambda: {0, 4})
    assert host.physical_cores(root) == 1
    monkeypatch.setattr(host, "_allowed_cpus", lambda: {0, 1, 5})
    assert host.physical_cores(root) == 2


def test_without_topology_every_cpu_is_a_core(tmp_path: Path) -> None:
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    assert host.physical_cores(tmp_path) == allowed


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({"a/b": "200000 100000"}, 2),
        ({"a/b": "150000 100000"}, 2),
        ({"a/b": "10000 100000"}, 1),
        ({"a/b": "max 100000", "a": "300000 100000"}, 3),
        ({"a/b": "800000 100000"}, 4),
        ({"a/b": "max 100000"}, 4),
        ({"": "100000 100000"}, 1),  # a container sees its own group as the root
        ({}, 4),
    ],
)
def test_cgroup_v2_quota_of_any_level_limits(
    root: Path, limits: dict[str, str], cores: int
) -> None:
    write(root / "proc/self/cgroup", "0::/a/b\n")
    for group, limit in limits.items():
        write(root / "sys/fs/cgroup" / group / "cpu.max", limit)
    assert host.physical_cores(root) == cores


@pytest.mark.parametrize(("quota", "cores"), [("250000", 3), ("-1", 4)])
def test_cgroup_v1_quota_limits(root: Path, quota: str, cores: int) -> None:
    write(root / "proc/self/cgroup", "4:memory:/job\n2:cpu,cpuacct:/job\n0::/\n")
    write(root / "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", quota)
    write(root / "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000")
    assert host.physical_cores(root) == cores


def test_driver_version(root: Path) -> None:
    assert host.nvidia_driver(root) is None
    write(
        root / "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
        "GCC version:  gcc version 13.3.0\n",
    )
    assert host.nvidia_driver(root) == "580.65.06"


class FakeCuda:
    """The driver API calls that `gpus` makes."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's name
        assert flags == 0
        return self.status

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        count._obj.value = 2  # type: ignore[attr-defined]
        return 0

    def cuDeviceGet(self, device: object, index: int) -> int:  # noqa: N802
        device._obj.value = index + 10  # type: ignore[attr-defined]
        return 0

    def cuDeviceGetName(self, name: ctypes.Array[ctypes.c_char], _: int, device: object) -> int:  # noqa: N802
        name.value = f"GPU {device.value}".encode()  # type: ignore[attr-defined]
        return 0

    def cuDeviceGetAttribute(self, value: object, which: int, _: object) -> int:  # noqa: N802
        value._obj.value = {75: 9, 76: 0}[which]  # type: ignore[attr-defined]
        return 0

    def cuDeviceTotalMem_v2(self, total: object, _: object) -> int:  # noqa: N802
        total._obj.value = 141 << 30  # type: ignore[attr-defined]
        return 0


def test_gpus_come_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: FakeCuda())
    one, two = host.gpus()
    assert one == host.Gpu(name="GPU 10", compute_capability="SM90", memory_bytes=141 << 30)
    assert two.name == "GPU 11"


@pytest.mark.parametrize("library", [FakeCuda(status=100), object()])
def test_a_driver_that_does_not_answer_has_no_gpus(
    library: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    assert host.gpus() == ()


def test_no_driver_library_means_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> ctypes.CDLL:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert host.gpus() == ()


def test_package_versions_leave_out_what_is_not_installed() -> None:
    found = host.package_versions(("numpy", "no-such-distribution"))
    assert found == {"numpy": metadata.version("numpy")}


def test_probe_imports_no_backend() -> None:
    code = (
        "import sys; from fuselage.engines import host; found = host.probe();"
        "assert found.cpu.physical_cores >= 1 and found.cpu.arch and found.packages['numpy'];"
        "print(sorted({'torch', 'onnxruntime', 'onnx', 'numpy', 'cuda'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['numpy']")
