"""Requests: the profile and the bucket of a call; and what padding must not change."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fuselage.engines.tensorrt.executor.request import RequestReader
from fuselage.engines.tensorrt.facts import PlanFacts
from fuselage.errors import FeedError
from fuselage.graph.tensors import ShapeProfile, TensorSpec

INPUTS = (
    TensorSpec("ids", "int64", ("batch", "sequence")),
    TensorSpec("bias", "float32", ("batch", 4)),
)
WIDE = ShapeProfile.parse("batch=1:8:64,sequence=1:64:128")
SHORT = ShapeProfile.parse("batch=1:8:64,sequence=1:16:32")


def reader(
    buckets: dict[str, tuple[int, ...]], *profiles: ShapeProfile, output: str = "sequence"
) -> RequestReader:
    facts = PlanFacts(
        target="tensorrt",
        package_version="11",
        compute_capabilities=(),
        plan_bytes=0,
        inputs=INPUTS,
        outputs=(TensorSpec("hidden", "float32", ("batch", output, 2)),),
        profile=WIDE,
        profiles=profiles,
    )
    return RequestReader(facts, buckets)


def feeds(batch: int, sequence: int) -> dict[str, np.ndarray]:
    return {
        "ids": np.zeros((batch, sequence), np.int64),
        "bias": np.zeros((batch, 4), np.float32),
    }


@pytest.mark.parametrize(
    ("fed", "profile", "key", "padded"),
    [
        ((1, 8), 1, (1, 8), ()),
        ((3, 8), 1, (4, 8), ("batch",)),
        ((4, 9), 1, (4, 16), ("sequence",)),
        ((64, 32), 1, (64, 32), ()),
        ((2, 33), 0, (4, 64), ("batch", "sequence")),
        ((64, 128), 0, (64, 128), ()),
    ],
)
def test_a_call_is_padded_to_its_bucket_and_then_finds_its_profile(
    fed: tuple[int, int], profile: int, key: tuple[int, int], padded: tuple[str, ...]
) -> None:
    buckets = {"batch": (1, 4, 64), "sequence": (64, 8, 16, 32, 128)}
    request = reader(buckets, WIDE, SHORT).read(feeds(*fed))
    assert request.profile == profile
    assert request.key == key
    assert request.padded == frozenset(padded)
    assert request.shapes == {"ids": key, "bias": (key[0], 4)}
    assert dict(request.sizes) == {"batch": fed[0], "sequence": fed[1]}


def test_without_buckets_the_sizes_are_those_fed() -> None:
    request = reader({}, WIDE).read(feeds(3, 17))
    assert (request.key, request.padded) == ((3, 17), frozenset())


def test_sizes_no_profile_takes_are_named() -> None:
    edges = (
        ShapeProfile.parse("batch=1:1:1,sequence=1:64:128"),
        ShapeProfile.parse("batch=1:8:64,sequence=1:16:32"),
    )
    strict = reader({}, *edges)
    with pytest.raises(FeedError, match=r"axis 'sequence' has size 129, .* 1 to 128"):
        strict.read(feeds(1, 129))
    with pytest.raises(
        FeedError, match=r"no profile .*'batch': 2, 'sequence': 33\}.*and batch=1:8:64"
    ):
        strict.read(feeds(2, 33))


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ({"rows": (1, 2)}, r"expected dynamic axes of the engine \(batch, sequence\), got 'rows'"),
        ({"batch": (1, 32)}, r"sizes from 1 that end at 64.*got \[1, 32\]"),
        ({"batch": (0, 64)}, r"got \[0, 64\]"),
        ({"batch": ()}, r"got \[\]"),
    ],
)
def test_buckets_that_do_not_fit_the_engine_are_refused(
    buckets: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(FeedError, match=message):
        reader(buckets, WIDE)


def test_buckets_need_outputs_whose_padding_can_be_cut_off() -> None:
    reader({}, WIDE, output="total")
    with pytest.raises(FeedError, match=r"hidden: .* has the axis 'total', which no input has"):
        reader({"batch": (64,)}, WIDE, output="total")


def test_padding_changes_no_answer_and_saves_graphs(rig: Any) -> None:
    buckets = {"batch": (1, 4, 16, 64), "sequence": (8, 64)}
    with rig.open(buckets=buckets, graph_after=1) as engine:
        # The first leaves other numbers where the later ones are padded.
        shapes = [(64, 64), (3, 7), (4, 8), (2, 5), (1, 1), (13, 30), (16, 64), (5, 9)]
        for batch, sequence in shapes:
            outputs = rig.check(engine, batch, sequence)
            assert outputs["pooled"].flags.c_contiguous
            assert outputs["hidden"].flags.c_contiguous
        held = engine.statistics()
        assert held.captures == 4, "(64, 64), (4, 8), (1, 8), (16, 64)"
        assert held.graph_launches == len(shapes) - 4
        staged = {shape for context in rig.trt.contexts for shape in context._shapes.values()}
        assert staged <= {(64, 64), (4, 8), (1, 8), (16, 64)}


def test_padding_is_zeros(rigs: ModuleType, fakes: ModuleType) -> None:
    rig = rigs.Rig(fakes, "tensorrt-11.4.0.106")
    seen: list[dict[str, np.ndarray]] = []

    def look(fed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append({name: array.copy() for name, array in fed.items()})
        return dict(rigs.compute(fed))

    rig.trt.model.function = look
    with rig.open(buckets={"batch": (4, 64), "sequence": (8, 64)}) as engine:
        rig.check(engine, 4, 8, seed=5)
        rig.check(engine, 2, 3)
    assert seen[-1]["ids"].shape == (4, 8)
    for array in seen[-1].values():
        assert not array[2:].any()
        assert not array[:, 3:].any()
