"""What add_profile checks itself; real ranges are tried in test_build.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fuselage.engines.tensorrt.profiles import add_profile
from fuselage.errors import BuildError
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
