"""The forms of a choice compute the same; measuring fills a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fuselage.calibration.session import GraphSession
from fuselage.compiler import tuning
from fuselage.passes.costs import CHOICES


def answer(form: str, hidden: int) -> np.ndarray[Any, Any]:
    feeds = tuning._feeds((2, 5, hidden))
    with GraphSession(tuning.graph_of(form, hidden), threads=1) as session:
        return session.run({spec.name: feeds[spec.name] for spec in session.inputs})["y"]


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "qkv"])
def test_the_forms_of_a_choice_answer_alike(choice: str) -> None:
    canonical, *others = (answer(form, 128) for form in CHOICES[choice])
    for other in others:
        np.testing.assert_allclose(other, canonical, atol=1e-5, rtol=1e-4)


def test_products_of_qkv_have_one_shape() -> None:
    assert answer("three products", 128).shape == answer("one product", 128).shape == (2, 5, 128)


def test_tuning_measures_every_form_at_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SHAPES", ((1, 4, 128), (2, 4, 128)))
    monkeypatch.setattr(tuning, "_LEAST_ROUNDS", 3)
    seen: list[str] = []
    table = tuning.tune(threads=1, seconds=0, on_choice=seen.append)
    assert len(seen) == 2 * len(CHOICES)
    assert len(table.measurements) == 2 * sum(len(forms) for forms in CHOICES.values())
    canonical = {next(iter(forms)) for forms in CHOICES.values()}
    assert {row.ratio for row in table.measurements if row.form in canonical} == {1.0}
    assert all(row.milliseconds > 0 for row in table.measurements)
    assert table.threads == 1
