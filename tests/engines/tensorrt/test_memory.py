"""What an engine needs of a GPU's memory, held to the GPU when it is built and loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fuselage.engines.base import BuildConfig, ExecutorOptions
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.engines.tensorrt.memory import MemoryNeed, memory_need
from fuselage.errors import BuildError, DeviceError
from fuselage.graph.tensors import ShapeProfile, TensorSpec

MIB = 1 << 20
SHORT = ShapeProfile.parse("batch=1:8:64,sequence=1:16:32")
LONG = ShapeProfile.parse("batch=1:2:4,sequence=33:64:256")
IDS = TensorSpec("ids", "int64", ("batch", "sequence"))
HIDDEN = TensorSpec("hidden", "bfloat16", ("batch", "sequence", 10))
UNKNOWN = TensorSpec("found", "float32", ("hits",))


def need(**bytes_: int | None) -> MemoryNeed | None:
    sizes = {"weights": 100, "workspace": 30, **bytes_}
    return memory_need((IDS, HIDDEN, UNKNOWN), (SHORT, LONG), **sizes)


def test_buffers_are_counted_at_the_neediest_profile() -> None:
    found = need()
    assert found is not None
    # 64 x 32 tokens beat 4 x 256: 8 bytes an id, 2 bytes each of 10 channels, the unknown left out.
    assert found.buffers == 64 * 32 * (8 + 20)
    assert found.total(1) == 100 + 30 + 2 * found.buffers
    assert found.total(3) == 100 + 3 * (30 + 2 * found.buffers)
    assert found.facts() == {
        "weights": 100, "workspace": 30, "buffers": found.buffers, "lanes": 2,
        "total": found.total(2),
    }  # fmt: skip


@pytest.mark.parametrize("silent", ["weights", "workspace"])
def test_nothing_is_claimed_of_a_build_that_did_not_say(silent: str) -> None:
    assert need(**{silent: None}) is None


def test_a_gpu_for_one_lane_is_a_warning_and_a_smaller_one_an_error() -> None:
    asked = MemoryNeed(weights=1000 * MIB, workspace=500 * MIB, buffers=10 * MIB)
    assert asked.check(2040 * MIB) == ()
    (warning,) = asked.check(2039 * MIB)
    assert warning.startswith("2 lanes need 1.99 GiB of GPU memory at the largest shapes (weights ")
    assert "load the engine with lanes=1" in warning
    assert len(asked.check(1520 * MIB)) == 1
    with pytest.raises(
        BuildError, match=r"needs 1\.48 GiB .* the GPU has 1\.48 GiB; build with a smaller --shapes"
    ):
        asked.check(1520 * MIB - 1)


@pytest.fixture
def build(graphs: ModuleType, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    pytest.importorskip("tensorrt_rtx")

    def run(**options: Any) -> dict[str, Any]:
        config = BuildConfig(
            profile=ShapeProfile.parse("batch=1:2:64,sequence=1:16:64"),
            profiles=options.pop("profiles", ()),
            compute_capabilities=("SM89",),
            **options,
        )
        backend = TensorRtBackend.of("tensorrt-rtx")
        return dict(backend.build(graphs.encoder(), config, tmp_path).facts)

    return run


def test_a_build_states_its_need(build: Callable[..., dict[str, Any]]) -> None:
    facts = build()
    stated = facts["gpu_memory"]
    assert stated["weights"] == facts["weight_bytes"]
    assert stated["workspace"] == facts["activation_bytes"]
    # Two int64 inputs and a float32 output of 64 channels, for 64 x 64 tokens.
    assert stated["buffers"] == 64 * 64 * (2 * 8 + 64 * 4)
    assert facts["warnings"] == []


def test_the_neediest_profile_counts_wherever_it_stands(
    build: Callable[..., dict[str, Any]],
) -> None:
    small = ShapeProfile.parse("batch=1:2:2,sequence=1:8:8")
    large = ShapeProfile.parse("batch=1:2:64,sequence=9:16:64")
    found = [
        build(profiles=order)["activation_bytes"] for order in ((small, large), (large, small))
    ]
    alone = [build(profiles=(only,))["activation_bytes"] for only in (small, large)]
    assert found == [alone[1]] * 2
    assert alone[0] < alone[1]


def test_an_engine_too_large_for_its_gpu_is_not_built(
    build: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    least = build()["gpu_memory"]
    one_lane = least["weights"] + least["workspace"] + 2 * least["buffers"]
    assert len(build(gpu_memory=one_lane)["warnings"]) == 1
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(BuildError, match="of GPU memory at its largest shapes"):
        build(gpu_memory=one_lane - 1)
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_what_is_free_are_refused_before_the_plan_is_opened(rig: Any) -> None:
    rig.content["weight_bytes"] = 600 * MIB
    rig.cuda.gpu_memory = 512 * MIB
    with pytest.raises(
        DeviceError, match=r"weights take 0\.59 GiB, but the GPU has 0\.50 GiB free of 0\.50 GiB"
    ):
        rig.open()
    assert rig.trt.contexts == []
    assert rig.cuda.leaks() == {}


def test_lanes_beyond_what_is_free_are_refused_with_the_number_that_fits(rig: Any) -> None:
    workspace = 1024  # of the fake's first profile
    rig.cuda.gpu_memory = 3 * workspace
    with pytest.raises(DeviceError, match=r"4 lanes of the engine .* load it with lanes=3, or"):
        rig.open(lanes=4)
    assert rig.cuda.leaks() == {}
    with rig.open(lanes=3) as engine:
        assert engine.statistics().workspace_bytes == 3 * workspace
    rig.cuda.gpu_memory = workspace - 1
    with pytest.raises(DeviceError, match=r"1 lanes .* rebuild it with a smaller --shapes, or"):
        rig.open(lanes=1)


def test_the_default_lanes_are_those_that_the_need_is_stated_for() -> None:
    asked = MemoryNeed(weights=0, workspace=1, buffers=0)
    assert asked.facts()["lanes"] == ExecutorOptions().lanes


def test_a_gpu_whose_memory_cannot_be_read_is_named(rig: Any) -> None:
    rig.cuda.fail("cudaMemGetInfo", rig.fakes.Status.cudaErrorIllegalAddress)
    with pytest.raises(DeviceError, match="cannot read the free memory of a GPU: cudaErrorIll"):
        rig.open()
