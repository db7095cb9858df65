"""What add_profile checks itself; real ranges are tried in test_build.py."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fuselage.engines.tensorrt.facts import PlanFacts
from fuselage.engines.tensorrt.profiles import add_profile
from fuselage.engines.text.batching import GPU_BUDGET, BatchLimits
from fuselage.errors import BuildError, BundleError, FeedError
from fuselage.graph.tensors import ShapeProfile, TensorSpec

IDS = TensorSpec("ids", "int64", ("batch", 7))


class Profile:
    def __init__(self, *, sound: bool = True, refuses: bool = False) -> None:
        self.sound = sound
        self.refuses = refuses
        self.shapes: dict[str, tuple[object, ...]] = {}

    def __bool__(self) -> bool:
        return self.sound

    def set_shape(self, name: str, *shapes: object) -> None:
        if self.refuses:
            raise ValueError("kMIN is larger than kOPT")
        self.shapes[name] = shapes


def add(profile: Profile, *, index: int = 0, is_shape_tensor: bool = False) -> None:
    tensor = SimpleNamespace(name="ids", is_shape_tensor=is_shape_tensor)
    add_profile(
        SimpleNamespace(create_optimization_profile=lambda: profile),
        SimpleNamespace(num_inputs=1, get_input=lambda _: tensor),
        SimpleNamespace(add_optimization_profile=lambda _: index),
        inputs=(IDS,),
        shapes=ShapeProfile.parse("batch=1:2:3"),
    )


@pytest.mark.parametrize("buckets", [[8, 4], [8, 8], [0, 8], [-8], [True], ["8"], 8, None])
def test_buckets_that_would_cut_texts_are_no_facts_of_a_plan(
    rtx: Any, tmp_path: Path, buckets: object
) -> None:
    rtx.content["buckets"] = [8, 16]
    assert PlanFacts.read(rtx.folder(tmp_path) / "engine.json", "tensorrt-rtx").buckets == (8, 16)
    rtx.content["buckets"] = buckets
    with pytest.raises(BundleError, match="expected the facts of a TensorRT engine"):
        PlanFacts.read(rtx.folder(tmp_path) / "engine.json", "tensorrt-rtx")


def test_an_engine_tells_the_text_runtime_its_profiles_and_buckets(
    rigs: ModuleType, fakes: ModuleType
) -> None:
    short = {"batch": [1, 2, 8], "sequence": [1, 8, 8]}
    long = {"batch": [1, 2, 4], "sequence": [9, 16, 64]}
    rig = rigs.Rig(fakes, "tensorrt_rtx-1.7.1.116", profiles=(short, long))
    rig.content["profile"] = {"batch": [1, 2, 8], "sequence": [1, 16, 64]}
    rig.content["buckets"] = [8, 24, 64]
    whole = ShapeProfile({"batch": (1, 2, 8), "sequence": (1, 16, 64)})
    with rig.open(lanes=1) as engine:
        limits = BatchLimits.of(
            engine.inputs[0], whole, profiles=engine.profiles, buckets=engine.buckets
        )
        for length, wanted in {1: 8, 8: 8, 9: 24, 24: 24, 25: 64, 64: 64}.items():
            width = int(limits.widths(np.array([length]))[0])
            assert width == wanted
            rig.check(engine, limits.most_rows(width, GPU_BUDGET), width)
        # A context for each profile from the start: nothing waits for a change of profile.
        assert [context._profile for context in rig.trt.contexts] == [0, 1]
        with pytest.raises(FeedError, match="no profile of the engine takes the sizes"):
            engine.run(rig.feeds(5, 64))


def test_ranges_reach_the_profile() -> None:
    profile = Profile()
    add(profile)
    assert profile.shapes == {"ids": ((1, 7), (2, 7), (3, 7))}


@pytest.mark.parametrize(
    ("profile", "index"), [(Profile(sound=False), 0), (Profile(), -1)], ids=["unsound", "not-added"]
)
def test_a_profile_that_tensorrt_rejects_is_an_error(profile: Profile, index: int) -> None:
    with pytest.raises(BuildError, match=r"refuses the shape profile batch=1:2:3 .* int64\[batch"):
        add(profile, index=index)


def test_a_range_that_tensorrt_rejects_is_an_error() -> None:
    with pytest.raises(BuildError, match="kMIN is larger than kOPT"):
        add(Profile(refuses=True))


def test_an_input_that_sets_a_shape_is_refused() -> None:
    with pytest.raises(BuildError, match="input 'ids' sets a shape by its value"):
        add(Profile(), is_shape_tensor=True)
