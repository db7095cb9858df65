"""docs/passes.md names every pass a preset or a cost table can run, and none that is gone."""

from __future__ import annotations

import re
from pathlib import Path

from fuselage.passes.costs import CHOICES
from fuselage.passes.presets import CANONICAL, lowering

PAGE = (Path(__file__).parents[2] / "docs" / "passes.md").read_text("utf-8")


def test_every_pass_is_on_the_page() -> None:
    chosen = [step for forms in CHOICES.values() for step in forms.values() if step is not None]
    lowered = [
        step
        for target, precision in (
            ("ort-cpu", "fp32"),
            ("ort-cpu", "int8"),
            ("ort-cpu", "int8-weight-only"),
            ("ort-cuda", "fp16"),
            ("tensorrt-rtx", "fp16"),
        )
        for step in lowering(target, precision)  # type: ignore[arg-type]
    ]
    names = {step.name for step in (*CANONICAL, *chosen, *lowered)}
    rows = set(re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE, re.MULTILINE))
    assert rows == names
