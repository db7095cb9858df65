"""New weights between calls: all of them or none, never under a call, never with an old graph."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from fuselage.engines.tensorrt import engine as engine_module
from fuselage.engines.tensorrt.executor.refit import refit
from fuselage.errors import DeviceError, FeedError


@pytest.fixture
def weighted(rig: Any) -> Any:
    """A rig whose plan computes pooled = scale * sum(ids) + bias."""
    weights = rig.trt.model.weights
    weights |= {"scale": np.float32([1]), "bias": np.float32([0])}

    def compute(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        pooled = weights["scale"] * feeds["ids"].sum(axis=1) + weights["bias"]
        return {"pooled": pooled, "hidden": np.zeros((*feeds["ids"].shape, 2))}

    rig.trt.model.function = compute
    return rig


def pooled(engine: Any, rig: Any) -> np.ndarray:
    return engine.run(rig.feeds(2, 3))["pooled"]


def test_answers_follow_the_new_weights_and_graphs_are_recorded_again(weighted: Any) -> None:
    sums = weighted.feeds(2, 3)["ids"].sum(axis=1)
    with weighted.open(graph_after=1) as engine:
        for _ in range(2):
            np.testing.assert_array_equal(pooled(engine, weighted), sums)
        assert engine.statistics().graph_launches == 1
        engine.refit({"scale": np.float32([2]), "bias": np.float32([5])})
        assert engine.statistics().graphs == 0
        for _ in range(2):
            np.testing.assert_array_equal(pooled(engine, weighted), 2 * sums + 5)
        assert engine.statistics().graph_launches == 2
    assert weighted.cuda.leaks() == {}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"skale": np.float32([1])}, "no weights named skale"),
        ({"scale": np.float32([1])}, "expected bias as well"),
        ({"scale": np.float32([1, 2])}, r"'scale' cannot take float32\[2\]: scale: the size"),
        ({"scale": np.float64([1])}, r"'scale' cannot take float64\[1\]"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(
    weighted: Any, weights: dict[str, np.ndarray], message: str
) -> None:
    with weighted.open() as engine:
        before = pooled(engine, weighted)
        with pytest.raises(FeedError, match=message):
            engine.refit(weights)
        np.testing.assert_array_equal(pooled(engine, weighted), before)


def test_a_plan_with_fixed_weights_says_so(rig: Any) -> None:
    with rig.open() as engine:
        with pytest.raises(DeviceError, match="built with its weights fixed"):
            engine.refit({"scale": np.float32([1])})
        rig.check(engine, 2, 3)


def test_an_engine_left_half_refitted_refuses_every_call(weighted: Any) -> None:
    new = {"scale": np.float32([2]), "bias": np.float32([5])}
    with weighted.open() as engine:
        weighted.trt.faults = {"refit"}
        with pytest.raises(DeviceError, match="cannot refit: the reason for refit"):
            engine.refit(new)
        weighted.trt.faults = set()
        for again in (lambda: pooled(engine, weighted), lambda: engine.refit(new)):
            with pytest.raises(DeviceError, match="was left half refitted"):
                again()
    assert weighted.cuda.leaks() == {}


def test_no_call_sees_weights_of_two_kinds(weighted: Any) -> None:
    sums = weighted.feeds(2, 3)["ids"].sum(axis=1)
    wrong: list[np.ndarray] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            found = pooled(engine, weighted)
            kinds = [number * sums + 10 * number for number in range(6)]
            if not any(np.array_equal(found, kind) for kind in (sums, *kinds)):
                wrong.append(found)

    with weighted.open(graph_after=1) as engine:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(1, 6):
            engine.refit({"scale": np.float32([number]), "bias": np.float32([10 * number])})
        stop.set()
        for thread in threads:
            thread.join()
        np.testing.assert_array_equal(pooled(engine, weighted), 5 * sums + 50)
    assert wrong == []


def test_a_closed_engine_cannot_be_refitted(weighted: Any) -> None:
    engine = weighted.open()
    engine.close()
    with pytest.raises(DeviceError, match="is closed"):
        engine.refit({})


def test_a_refit_that_is_torn_off_ends_the_engine(
    weighted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(*arguments: Any) -> None:
        refit(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_module, "refit", torn)
    with weighted.open(graph_after=1) as engine:
        for _ in range(2):
            pooled(engine, weighted)
        with pytest.raises(KeyboardInterrupt):
            engine.refit({"scale": np.float32([2]), "bias": np.float32([5])})
        assert engine.statistics().graphs == 0, "they may hold the old weights"
        with pytest.raises(DeviceError, match=r"left half refitted \(interrupted\)"):
            pooled(engine, weighted)
    assert weighted.cuda.leaks() == {}
