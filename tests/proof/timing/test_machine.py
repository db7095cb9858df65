"""What others did meanwhile, clocks, energy and GPUs, from files like the kernel's."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fuselage.proof.timing import business as module
from fuselage.proof.timing.business import Counters, business, counters
from fuselage.proof.timing.energy import Meter
from fuselage.proof.timing.machine import clocks, governor, head_lines, machine
from fuselage.proof.timing.nvml import nvidia_state

SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_allowed", lambda: {0, 1})


def reading(
    seconds: float, busy: float, own: float, *, stolen: float = 0, waited: float | None = 0
) -> Counters:
    return Counters(
        moment=int(seconds * SECOND),
        busy=int(busy * SECOND),
        stolen=int(stolen * SECOND),
        own=int(own * SECOND),
        waited=None if waited is None else int(waited * SECOND),
        preempted=int(seconds * 5),
    )


def test_what_is_not_ours_is_that_of_others() -> None:
    found = business(reading(0, 100, 50), reading(10, 118, 66, waited=2))
    assert found.others == pytest.approx(0.1)  # 2 of 20 processor seconds
    assert found.waiting == pytest.approx(2 / 16)
    assert (found.seconds, found.processors, found.preempted) == (10, 2, 5)
    assert not found.is_busy  # exactly the limit


def test_more_than_a_tenth_and_waiting_is_busy() -> None:
    found = business(reading(0, 0, 0), reading(10, 19, 16, waited=2))
    assert found.is_busy
    assert found.reason == (
        "others used 15% of the time of our 2 processors, more than 10%, and our threads waited "
        "0.12 s for each second they ran"
    )


def test_others_on_cores_that_nobody_wanted_do_no_harm() -> None:
    assert not business(reading(0, 0, 0), reading(10, 12, 5, waited=0.05)).is_busy


def test_where_waiting_is_not_counted_others_alone_decide() -> None:
    found = business(reading(0, 0, 0, waited=None), reading(10, 19, 16, waited=None))
    assert found.reason == "others used 15% of the time of our 2 processors, more than 10%"


def test_time_that_a_hypervisor_took_is_busy_by_itself() -> None:
    found = business(reading(0, 0, 0), reading(10, 16.5, 16, stolen=0.5))
    assert found.reason == (
        "the hypervisor gave 2% of the time of our 2 processors to other guests, more than 2%"
    )


def test_more_of_ours_than_the_kernel_has_counted_is_nobody_else() -> None:
    """Its ticks are 10 ms, ours are exact."""
    assert business(reading(0, 0, 0), reading(1, 0.5, 0.51)).others == 0


def test_a_system_that_counts_nothing_is_not_called_busy() -> None:
    nothing = Counters(moment=0, busy=None, stolen=0, own=0, waited=None, preempted=0)
    later = Counters(moment=SECOND, busy=None, stolen=0, own=SECOND, waited=None, preempted=0)
    found = business(nothing, later)
    assert found.others is None
    assert not found.is_busy


def test_counters_are_those_of_our_processors(tmp_path: Path) -> None:
    (tmp_path / "proc/self/task/7").mkdir(parents=True)
    (tmp_path / "proc/self/task/8").mkdir(parents=True)
    (tmp_path / "proc/self/task/7/schedstat").write_text("5 1000 2\n")
    (tmp_path / "proc/self/task/8/schedstat").write_text("5 234 2\n")
    (tmp_path / "proc/stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\n"
        "cpu0 100 10 20 5000 70 1 2 3 0 0\n"
        "cpu1 1 1 1 5000 7 1 1 1 0 0\n"
        "cpu2 777 1 1 5000 7 1 1 1 0 0\n"
        "intr 5\n"
    )
    found = counters(tmp_path)
    tick = SECOND / os.sysconf("SC_CLK_TCK")
    assert found.busy == (136 + 6) * tick  # neither idle nor waiting for a disk
    assert found.stolen == 4 * tick
    assert found.waited == 1234
    assert counters(tmp_path / "nowhere").busy is None


def test_real_counters_move_forward() -> None:
    before = counters()
    total = sum(range(200_000))
    after = counters()
    assert total
    assert after.moment > before.moment
    assert after.own >= before.own


def test_governor_and_clocks(tmp_path: Path) -> None:
    for index, kilohertz in enumerate((2_100_000, 3_400_000)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{index}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text("powersave\n")
        (folder / "scaling_cur_freq").write_text(f"{kilohertz}\n")
    assert governor(tmp_path) == "powersave"
    assert clocks(tmp_path) == {"min": 2100.0, "max": 3400.0}


def test_clocks_of_a_guest_are_those_of_cpuinfo(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name: x\ncpu MHz\t\t: 2596.122\n")
    assert clocks(tmp_path) == {"min": 2596.122, "max": 2596.122}
    assert governor(tmp_path) is None
    assert clocks(tmp_path / "nowhere") is None


def test_the_head_says_where_figures_were_taken() -> None:
    head = machine(threads=3)
    lines = head_lines(head)
    assert "3 threads" in lines[0]
    assert f"numpy {head['versions']['numpy']}" in lines[-1]
    assert head["affinity"] == sorted(os.sched_getaffinity(0))


# --- energy


def rapl(root: Path, *microjoules: int) -> None:
    for index, value in enumerate(microjoules):
        folder = root / f"sys/class/powercap/intel-rapl:{index}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "energy_uj").write_text(f"{value}\n")
        (folder / "max_energy_range_uj").write_text("1000000\n")
        inner = root / f"sys/class/powercap/intel-rapl:{index}:0"
        inner.mkdir(exist_ok=True)  # a part of the package, which counts it already
        (inner / "energy_uj").write_text("999\n")


def test_energy_is_that_of_all_packages_and_wraps(tmp_path: Path) -> None:
    rapl(tmp_path, 100_000, 900_000)
    meter = Meter.open(tmp_path)
    before = meter.read()
    rapl(tmp_path, 350_000, 100_000)
    assert meter.joules(before, meter.read()) == pytest.approx(0.25 + 0.2)
    assert meter.joules((), before) is None


def test_why_energy_is_not_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = "this machine has no RAPL counters (/sys/class/powercap)"
    assert Meter.open(tmp_path) == Meter(blocker=blocker)
    rapl(tmp_path, 1)

    def refuse(path: Path, *_: Any, **__: Any) -> str:
        raise PermissionError(13, "denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    assert Meter.open(tmp_path).blocker.endswith("energy_uj is readable by root alone")
    assert Meter.open(tmp_path).joules((), ()) is None


# --- GPUs


class NvmlError(Exception):
    pass


def fake_nvml(**changes: Any) -> SimpleNamespace:
    def refuse(*_: object) -> int:
        raise NvmlError("not supported")

    names: dict[str, Any] = {
        "NVMLError": NvmlError,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: f"gpu{index}",
        "nvmlDeviceGetClockInfo": lambda _, kind: {1: 1980, 2: 2619}[kind],
        "nvmlDeviceGetPowerUsage": lambda _: 123_400,
        "nvmlDeviceGetTemperature": refuse,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: 0x24,
    }
    return SimpleNamespace(**names | changes)


def test_a_gpu_tells_what_it_can() -> None:
    assert nvidia_state(fake_nvml()) == [
        {
            "sm_mhz": 1980,
            "memory_mhz": 2619,
            "watts": 123.4,
            "throttled": "power cap, software thermal",
        }
    ]


def test_no_driver_is_no_gpu() -> None:
    def refuse() -> None:
        raise NvmlError("driver not loaded")

    assert nvidia_state(fake_nvml(nvmlInit=refuse)) == []
