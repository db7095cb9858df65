"""A cache has one address: its input and its output are the same memory."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.engine import TensorRtEngine
from fuselage.engines.tensorrt.facts import PlanFacts
from fuselage.engines.tensorrt.profiles import engine_profiles
from fuselage.graph.tensors import ShapeProfile, TensorSpec

INPUTS = {"ids": ("int64", ("batch", "sequence")), "past": ("float16", ("batch", 6))}
OUTPUTS = {"logits": ("float32", ("batch",)), "present": ("float16", ("batch", 6))}


def append(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    present = feeds["past"].copy()
    present[:, 2:3] = feeds["ids"][:, :1]
    return {"logits": present.sum(axis=1), "present": present}


def specs(tensors: dict[str, tuple[str, tuple[int | str, ...]]]) -> list[dict[str, Any]]:
    return [{"name": n, "dtype": t, "dims": list(dims)} for n, (t, dims) in tensors.items()]


@pytest.fixture
def rig(fakes: ModuleType) -> tuple[TensorRtEngine, Any]:
    cuda = fakes.FakeCuda()
    model = fakes.FakeModel(inputs=INPUTS, outputs=OUTPUTS, function=append)
    trt = fakes.FakeTensorRt("tensorrt_rtx", cuda, model)
    facts = PlanFacts.parse(
        {
            "target": "tensorrt-rtx",
            "package_version": trt.__version__,
            "compute_capabilities": ["SM89"],
            "bytes": len(fakes.PLAN),
            "profile": {"batch": [1, 2, 4], "sequence": [1, 2, 4]},
            "inputs": specs(INPUTS),
            "outputs": specs(OUTPUTS),
            "caches": {"present": "past"},
        }
    )
    return TensorRtEngine.open(trt, Cuda(cuda), fakes.PLAN, facts), trt


def test_a_cache_is_written_in_place_and_comes_back(rig: tuple[TensorRtEngine, Any]) -> None:
    engine, trt = rig
    past = np.arange(12, dtype=np.float16).reshape(2, 6)
    for batch in (1, 2):  # the second call needs larger buffers
        feeds = {"ids": np.full((batch, 1), 7), "past": past[:batch].copy()}
        outputs = engine.run(feeds)
        addresses = trt.contexts[0]._addresses
        assert addresses["present"] == addresses["past"]
        assert len(set(addresses.values())) == 3
        np.testing.assert_array_equal(feeds["past"], past[:batch])
        np.testing.assert_array_equal(outputs["present"], append(feeds)["present"])
        np.testing.assert_allclose(outputs["logits"], append(feeds)["logits"])
    engine.close()


def test_facts_of_older_bundles_have_no_caches() -> None:
    content = {
        "target": "tensorrt-rtx", "package_version": "1", "compute_capabilities": [], "bytes": 1,
        "profile": {}, "inputs": [], "outputs": [],
    }  # fmt: skip
    assert PlanFacts.parse(content).caches == {}


class TestProfiles:
    INPUTS = (
        TensorSpec("ids", "int64", ("batch", "sequence")),
        TensorSpec("write", "int64", ("batch",)),
        TensorSpec("past", "float16", ("batch", 2, 32, 16)),
    )

    def test_a_decoder_gets_a_profile_for_one_token(self) -> None:
        asked = ShapeProfile.parse("batch=1:2:4,sequence=1:8:16")
        first, second = engine_profiles((), asked, self.INPUTS, ("past",))
        assert first is asked
        assert str(second) == "batch=1:2:4,sequence=1:1:1"

    @pytest.mark.parametrize(
        ("asked", "caches"),
        [("batch=1:2:4,sequence=1:8:16", ()), ("batch=1:2:4,sequence=1:1:1", ("past",))],
        ids=["no-cache", "one-token-asked"],
    )
    def test_others_keep_theirs(self, asked: str, caches: tuple[str, ...]) -> None:
        shapes = ShapeProfile.parse(asked)
        assert engine_profiles((), shapes, self.INPUTS, caches) == (shapes,)

    def test_several_profiles_keep_their_order_and_share_one_for_decoding(self) -> None:
        short = ShapeProfile.parse("batch=1:8:16,sequence=1:8:32")
        long = ShapeProfile.parse("batch=1:2:4,sequence=33:64:64")
        whole = ShapeProfile.parse("batch=1:8:16,sequence=1:8:64")
        found = engine_profiles((short, long), whole, self.INPUTS, ("past",))
        assert found[:2] == (short, long)
        assert [str(last) for last in found[2:]] == ["batch=1:8:16,sequence=1:1:1"]
