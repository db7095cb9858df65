"""The cost table: which form wins, what ships, and files that are no table."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fuselage.errors import PassError
from fuselage.passes.costs import CHOICES, MARGIN, CostTable, Measurement
from fuselage.passes.lowering.fuse_skip_layer_norm import FuseSkipLayerNorm
from fuselage.passes.lowering.merge_qkv import MergeQkv
from fuselage.passes.lowering.split_packed_weights import SplitPackedWeights
from fuselage.passes.presets import lowering


def table(**ratios: float) -> CostTable:
    """ratios: form with underscores -> ratio at both shapes."""
    rows = tuple(
        Measurement(choice=choice, form=form, shape=shape, milliseconds=1.0, ratio=ratio)
        for choice, forms in CHOICES.items()
        for form in forms
        for shape, ratio in (((1, 128, 384), ratios.get(form.replace(" ", "_"), 1.0)),)
    )
    return CostTable(
        target="ort-cpu", machine="m", runtime="r", threads=2, date="2026-01-01", measurements=rows
    )


def forged(key: str, value: Any) -> str:
    """A table in which the last row has another value."""
    facts = json.loads(json.dumps(table().facts()))
    row = next(row for row in facts["measurements"] if row["form"] == "one product")
    row[key] = value
    return json.dumps(facts)


def test_the_canonical_form_wins_a_tie_and_what_lies_in_the_noise() -> None:
    for ratio in (1.0, MARGIN, 1.5):
        assert table(one_product=ratio).best("qkv") == "three products"
        assert table(one_product=ratio).passes() == (SplitPackedWeights(),)


def test_a_faster_form_brings_its_pass() -> None:
    faster = table(one_product=0.9, SkipLayerNormalization=0.5)
    assert faster.best("residual norm") == "SkipLayerNormalization"
    assert set(faster.passes()) == {MergeQkv(), FuseSkipLayerNorm("LayerNormalization")}
    names = [step.name for step in lowering("ort-cpu", "fp32", costs=faster)]
    assert "merge-qkv" in names
    assert names[-1] == "clean-up"


def test_shapes_count_alike() -> None:
    one, *rest = table(one_product=0.5).measurements
    del one
    measured = [row for row in rest if row.form == "one product"]
    slower = replace(measured[0], shape=(8, 128, 384), ratio=2.5)
    mixed = replace(table(one_product=0.5), measurements=(*rest, slower))
    assert mixed.ratio("qkv", "one product") == pytest.approx((0.5 * 2.5) ** 0.5)
    assert mixed.best("qkv") == "three products"
    assert mixed.ratio("qkv", "no such form") is None


def test_the_shipped_table_measures_every_form_and_says_where() -> None:
    shipped = CostTable.shipped("ort-cpu")
    assert shipped is not None
    assert shipped.machine
    assert shipped.runtime.startswith("onnxruntime ")
    for choice, forms in CHOICES.items():
        for form in forms:
            assert shipped.ratio(choice, form) is not None, (choice, form)
    # Several times slower than two operators on the machine it was measured on.
    skip = shipped.ratio("residual norm", "SkipLayerNormalization")
    assert skip is not None
    assert skip > 2
    assert CostTable.shipped("tensorrt-rtx") is None


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = table(one_product=0.9)
    written.save(tmp_path / "costs.json")
    assert CostTable.load(tmp_path / "costs.json") == written


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "expected a cost table"),
        ("[]", "expected a cost table"),
        ("{}", "expected a cost table"),
        (json.dumps(table().facts() | {"more": 1}), "expected a cost table"),
        (json.dumps(table().facts()).replace("one product", "two"), "it has qkv: two"),
        ("[" * 100_000, "expected a cost table"),
        (forged("ratio", 0.0), "one product: ratio of 0.0"),
        (forged("ratio", math.nan), "one product: ratio of nan"),
        (forged("ratio", "1"), "one product: ratio of '1'"),
        (forged("milliseconds", math.nan), "one product: milliseconds of nan"),
        (forged("milliseconds", math.inf), "one product: milliseconds of inf"),
        (forged("milliseconds", -1.0), "one product: milliseconds of -1"),
        (forged("shape", [1, 128]), r"a shape of \(1, 128\)"),
        (forged("shape", [1, 128, 0]), r"a shape of \(1, 128, 0\)"),
        (forged("choice", []), "expected a cost table"),
    ],
)
def test_what_is_no_table_is_refused_with_a_way_on(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(PassError, match=reason) as caught:
        CostTable.load(path)
    assert str(path) in str(caught.value)
    assert "fuselage tune" in str(caught.value)
