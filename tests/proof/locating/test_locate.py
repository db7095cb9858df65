"""The first layer that a graph gets wrong, against another graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fuselage.errors import VerificationError
from fuselage.graph.tensors import Array
from fuselage.proof.locating.locate import Divergence, locate_divergence
from fuselage.proof.subjects.base import Subject
from fuselage.proof.subjects.open import open_subject

Stack = Callable[..., Path]
Feeds = dict[str, Array]
Change = Callable[[str, Array], Array]


def located(good: Path, bad: Path, feeds: Feeds) -> Divergence | None:
    with open_subject(f"ort:{good}") as reference, open_subject(f"ort:{bad}") as candidate:
        return locate_divergence(reference, candidate, feeds, tolerance=2e-5)


def bumped(by: float, *names: str) -> Change:
    """The first entry of some weights is off."""

    def change(key: str, array: Array) -> Array:
        changed = np.array(array)
        if key in names:
            changed[(0,) * changed.ndim] += by
        return changed

    return change


def test_the_same_graph_diverges_nowhere(stack: Stack, feeds: Feeds) -> None:
    assert located(stack("good"), stack("same"), feeds) is None


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_one_weight_is_found_in_its_layer(stack: Stack, feeds: Feeds, layer: int) -> None:
    found = located(stack("good"), stack("bad", bumped(1e-2, f"weight_{layer}")), feeds)
    assert found is not None
    assert found.layer == found.node == f"product_{layer}"
    assert found.operator == "MatMul"
    assert found.error is not None
    assert 1e-4 < found.error < 1e-2
    assert found.limit == pytest.approx(4e-6)
    assert found.agreed == f"hidden_{layer}"
    assert (found.landmarks, found.found) == (10, 10)
    assert not found.gradual
    assert not found.stand_in


def test_a_layer_is_judged_by_itself(stack: Stack, feeds: Feeds) -> None:
    """Against a reference with the same first fault, the second one is the first."""
    once = stack("once", bumped(0.5, "weight_0"))
    twice = stack("twice", bumped(0.5, "weight_0", "weight_2"))
    found = located(once, twice, feeds)
    assert found is not None
    assert found.layer == "product_2"
    found = located(stack("good"), twice, feeds)
    assert found is not None
    assert found.layer == "product_0"


def test_what_was_folded_is_no_divergence(stack: Stack, feeds: Feeds) -> None:
    assert located(stack("good"), stack("folded", folded=True), feeds) is None
    found = located(stack("good"), stack("bad", bumped(1e-2, "weight_2"), folded=True), feeds)
    assert found is not None
    assert found.layer == "product_2"


def test_padding_is_left_out(stack: Stack, feeds: Feeds) -> None:
    """Token 39 stands in the padding alone, and its embedding differs."""
    ids = np.minimum(feeds["input_ids"], 38)
    ids[1, 20:] = 39
    bad = stack("bad", lambda key, array: _other_token(array) if key == "table" else array)
    good = stack("good")
    assert located(good, bad, {**feeds, "input_ids": ids}) is None
    found = located(good, bad, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert found is not None
    assert found.layer == "hidden_0"
    assert found.agreed is None


def _other_token(table: Array) -> Array:
    changed = np.array(table)
    changed[39] += 1
    return changed


def test_few_tokens_are_enough(stack: Stack) -> None:
    feeds: Feeds = {name: np.ones((1, 1), np.int64) for name in ("input_ids", "attention_mask")}
    found = located(stack("good"), stack("bad", bumped(1e-2, "weight_1")), feeds)
    assert found is not None
    assert found.layer == "product_1"


def test_infinity_has_a_node_and_no_number(stack: Stack, feeds: Feeds) -> None:
    def change(key: str, array: Array) -> Array:
        return np.multiply(np.sign(array), 2e38) if key == "weight_1" else array

    found = located(stack("good"), stack("bad", change), feeds)
    assert found is not None
    assert found.layer == found.not_finite == "product_1"
    assert found.error is None
    assert "NaN or infinity first from product_1" in str(found)
    json.dumps(found.as_json(), allow_nan=False)


def test_one_line_says_it_all(stack: Stack, feeds: Feeds) -> None:
    found = located(stack("good"), stack("bad", bumped(1e-2, "weight_1")), feeds)
    assert found is not None
    assert str(found).startswith("diverges at product_1: relative error ")
    assert str(found).endswith("; candidate's MatMul product_1; agrees up to hidden_1")
    assert found.as_json()["layer"] == "product_1"


class Planned(Subject):
    """An engine nobody can look into, of a bundle."""

    def __init__(self, subject: Subject, graph: Path) -> None:
        self.name, self.inputs, self.outputs = "plan", subject.inputs, subject.outputs
        self.bundle = _Bundle(graph)

    def run(self, feeds: object) -> dict[str, Array]:
        raise NotImplementedError


class _Bundle:
    def __init__(self, graph: Path) -> None:
        self._graph = graph

    def path(self, name: str) -> Path:
        assert name == "graph/model.onnx"
        return self._graph


def test_a_plan_is_looked_for_in_the_canonical_graph(stack: Stack, feeds: Feeds) -> None:
    bad = stack("bad", bumped(1e-2, "weight_1"))
    with open_subject(f"ort:{stack('good')}") as reference:
        found = locate_divergence(reference, Planned(reference, bad), feeds, tolerance=2e-5)
    assert found is not None
    assert (found.layer, found.graph, found.stand_in) == ("product_1", str(bad), True)
    assert str(found).endswith("looked for in the canonical graph it was built from")


class Closed(Subject):
    """Kept answers."""

    def run(self, feeds: object) -> dict[str, Array]:
        raise NotImplementedError


def test_a_closed_subject_is_refused(stack: Stack, feeds: Feeds) -> None:
    closed = Closed()
    closed.name, closed.inputs, closed.outputs = "results:kept.npz", (), ()
    with open_subject(f"ort:{stack('good')}") as subject:
        for pair in ((closed, subject), (subject, closed)):
            with pytest.raises(VerificationError, match=r"results:kept\.npz is closed"):
                locate_divergence(*pair, feeds, tolerance=1e-5)
