"""Every family through every exporter: all attention fused, answers like PyTorch's eager attention.

The legacy exporter writes a family in a tenth of a second, so its two spellings run always; the
dynamo exporter takes seconds, so one family a kind runs always and the others in `make test-all`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from families.exporters import SPELLINGS, CannotExportError, Spelling, export
from families.models import FAMILIES, SMALL, Family, make
from family_coverage import TOLERANCE, cell

from fuselage.graph.model import Graph
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import CANONICAL

QUICK = {"bert", "deberta-v2", "bart", "llama-cached"}
NO_SDPA = {"mpnet", "deberta-v2"}


def cases() -> list[object]:
    found = []
    for family in FAMILIES:
        for spelling in (*SPELLINGS, Spelling("legacy", "eager", 14)):
            slow = spelling.exporter == "dynamo" and family.name not in QUICK
            found.append(
                pytest.param(
                    family,
                    spelling,
                    id=f"{family.name}-{spelling}",
                    marks=[pytest.mark.slow] if slow else [],
                )
            )
    return found


@pytest.mark.parametrize(("family", "spelling"), cases())
def test_nothing_is_lost(family: Family, spelling: Spelling, tmp_path: Path) -> None:
    found = cell(family, spelling, tmp_path)
    if spelling.attention == "sdpa" and family.name in NO_SDPA:
        assert "has no sdpa attention" in found.problem
        return
    assert found.problem == ""
    assert (found.fused, found.rotary[0], found.grouped[0], found.cached[0]) == (
        family.blocks(SMALL),
        family.rotary * SMALL.layers,
        family.blocks(SMALL) * family.grouped,
        family.blocks(SMALL) * (family.kind == "cached decoder"),
    )
    assert found.difference <= TOLERANCE
    assert found.outputs_kept
    assert found.passed


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_spellings_of_the_legacy_exporter_converge(family: Family, tmp_path: Path) -> None:
    """sdpa and eager differ in scale, guard and mask; nothing of that is left."""
    if family.name in NO_SDPA:
        with pytest.raises(ValueError, match="has no sdpa attention"):
            make(family, "sdpa")
        return
    counts = []
    for attention in ("sdpa", "eager"):
        path = tmp_path / f"{attention}.onnx"
        export(family, Spelling("legacy", attention), path)
        counts.append(PassPipeline(CANONICAL).run(Graph.load(path)).op_counts)
    assert counts[0] == counts[1]


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    deberta = next(family for family in FAMILIES if family.name == "deberta-v2")
    with pytest.raises(CannotExportError, match="DebertaV2Model of transformers has no sdpa"):
        export(deberta, Spelling("dynamo", "sdpa"), tmp_path / "model.onnx")
