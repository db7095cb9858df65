"""Good bundles pass: one family always, the others in `make test-all`."""

from __future__ import annotations

from pathlib import Path

import pytest
from no_false_alarm import FAMILIES, PRECISIONS, answer

QUICK = {("bert", "fp32"), ("bert", "int8"), ("bert", "fp16")}


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        pytest.param(
            family, precision, marks=[] if (family, precision) in QUICK else [pytest.mark.slow]
        )
        for family in FAMILIES
        for precision in PRECISIONS
    ],
)
def test_a_good_bundle_raises_no_alarm(family: str, precision: str, tmp_path: Path) -> None:
    found = answer(family, precision, tmp_path)
    assert found.alarms == ()
    assert 0 < found.relative < {"fp32": 2e-5, "fp16": 1e-2, "int8": 0.5}[precision]
