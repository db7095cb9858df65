"""The coverage table: every family through every exporter, fused and compared with PyTorch.

    python benchmarks/family_coverage.py [--only NAME ...] [--markdown FILE] [--json FILE]

Each cell exports a random-weight model, runs the canonical passes, and compares the answers with
PyTorch's eager attention: padding on both sides, batch 1, sequence 1, an empty cache, and a row
without any key. The exit status is 1 when a block is left or an answer is off.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from families.exporters import SPELLINGS, CannotExportError, Spelling, export
from families.models import FAMILIES, SMALL, Family, Traceable, make

from fuselage.calibration.session import GraphSession
from fuselage.graph.model import Graph
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import CANONICAL

TOLERANCE = 1e-5
"""Largest absolute difference from PyTorch, of values around 1."""

CASES: tuple[dict[str, Any], ...] = (
    {"batch": 2, "sequence": 9, "past": 5, "target": 6},
    {"batch": 1, "sequence": 1, "past": 3, "target": 1},
    {"batch": 1, "sequence": 17, "past": 0, "target": 4},
    {"batch": 3, "sequence": 7, "past": 2, "target": 3, "full_row": True},
    {"batch": 4, "sequence": 12, "past": 4, "target": 12},
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One family through one exporter.

    Attributes:
        blocks: attention blocks of the model.
        fused: Attention operators after the passes.
        rotary: RotaryEmbedding operators found and expected.
        grouped: Attention operators with fewer key/value heads, and expected.
        cached: Attention operators that append to a cache, and expected.
        nodes: before and after.
        difference: largest absolute difference from PyTorch over all cases.
        seconds: of CPU for all passes.
        outputs_kept: whether every output has the symbolic shape it had.
        problem: why there is no cell; empty otherwise.
    """

    family: str
    spelling: str
    blocks: int = 0
    fused: int = 0
    rotary: tuple[int, int] = (0, 0)
    grouped: tuple[int, int] = (0, 0)
    cached: tuple[int, int] = (0, 0)
    nodes: tuple[int, int] = (0, 0)
    difference: float = 0.0
    seconds: float = 0.0
    outputs_kept: bool = True
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is lost, or the exporter gave nothing."""
        pairs = (self.rotary, self.grouped, self.cached)
        complete = self.fused == self.blocks and all(got == wanted for got, wanted in pairs)
        return complete and self.difference <= TOLERANCE and self.outputs_kept


def cell(family: Family, spelling: Spelling, folder: Path) -> Cell:
    """Export, rewrite, compare."""
    try:
        export(family, spelling, folder / "model.onnx")
    except CannotExportError as error:
        return Cell(family=family.name, spelling=str(spelling), problem=str(error))
    original = Graph.load(folder / "model.onnx")
    started = time.process_time()
    graph = PassPipeline(CANONICAL).run(original)
    seconds = time.process_time() - started
    blocks, layers = family.blocks(SMALL), SMALL.layers
    attention = [node for node in graph.model.graph if node.op_type == "Attention"]
    reference = make(family, "eager")
    return Cell(
        family=family.name,
        spelling=str(spelling),
        blocks=blocks,
        fused=len(attention),
        rotary=(graph.op_counts.get("RotaryEmbedding", 0), family.rotary * layers),
        grouped=(sum(map(_is_grouped, attention)), blocks * family.grouped),
        cached=(
            sum(len(node.outputs) == 3 for node in attention),
            blocks * (reference.cache is not None),
        ),
        nodes=(len(original.model.graph), len(graph.model.graph)),
        difference=difference(graph, reference),
        seconds=seconds,
        outputs_kept=_output_shapes(original) == _output_shapes(graph),
    )


def _is_grouped(node: ir.Node) -> bool:
    if "q_num_heads" in node.attributes:
        heads = (node.attributes[name].as_int() for name in ("q_num_heads", "kv_num_heads"))
        return len(set(heads)) == 2
    sizes = [value.shape[1] for value in node.inputs[:2] if value is not None and value.shape]
    return len(set(sizes)) == 2


def _output_shapes(graph: Graph) -> list[str]:
    return [f"{value.name} {value.dtype} {value.shape}" for value in graph.model.graph.outputs]


def difference(graph: Graph, reference: Traceable) -> float:
    """Largest absolute difference from PyTorch over all cases; infinite for another shape."""
    with GraphSession(graph, threads=1) as session:
        return max(_case_difference(session, reference, case) for case in CASES)


def _case_difference(session: GraphSession, reference: Traceable, case: dict[str, Any]) -> float:
    feeds = reference.feeds(**case)
    with torch.no_grad():
        wanted = reference.module(*feeds.values())
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    got = session.run({name: tensor.numpy() for name, tensor in feeds.items()})
    largest = 0.0
    for name, theirs in zip(reference.outputs, wanted, strict=True):
        ours = got[name]
        if ours.shape != tuple(theirs.shape) or not np.isfinite(ours).all():
            return float("inf")
        if ours.size:
            largest = max(largest, float(np.abs(ours - theirs.numpy()).max()))
    return largest


def table(cells: Sequence[Cell]) -> str:
    """The cells as a Markdown table, a family a row and an exporter a column."""
    spellings = list(dict.fromkeys(one.spelling for one in cells))
    lines = [
        f"| family | {' | '.join(spellings)} |",
        f"|---|{'---|' * len(spellings)}",
    ]
    for family in dict.fromkeys(one.family for one in cells):
        row = {one.spelling: one for one in cells if one.family == family}
        lines.append(f"| {family} | {' | '.join(_text(row[name]) for name in spellings)} |")
    return "\n".join(lines)


def _text(one: Cell) -> str:
    if one.problem:
        return "cannot be exported"
    parts = [f"{one.fused}/{one.blocks}"]
    for name, (got, wanted) in (
        ("rotary", one.rotary),
        ("grouped", one.grouped),
        ("cached", one.cached),
    ):
        if wanted or got:
            parts.append(f"{name} {got}/{wanted}")
    parts.append(f"{one.nodes[0]} → {one.nodes[1]} nodes")
    parts.append(f"{one.difference:.0e}")
    return ", ".join(parts) + ("" if one.passed else " **off**")


def document(cells: Sequence[Cell]) -> str:
    """docs/families.md."""
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "onnx", "onnxruntime")
    )
    problems = {one.problem: one for one in cells if one.problem}
    notes = "\n".join(
        f"- {one.family} has no {one.spelling}: {problem}." for problem, one in problems.items()
    )
    return f"""# Families

Made by `make families` on {datetime.now(UTC).date()} with {packages}:
random weights, {SMALL.layers} layers, hidden size {SMALL.hidden}. A cell reads: attention blocks
fused / found, RotaryEmbedding operators, attentions that share key/value heads, attentions that
append to a cache, nodes before and after the canonical passes, and the largest absolute difference
from PyTorch's eager attention over {len(CASES)} cases: padding, batch 1, sequence 1, an empty
cache, a row without any key.

{table(cells)}

{notes}
"""


def cells(only: Sequence[str]) -> Iterator[Cell]:
    """Every cell, printed as it is done."""
    for family in FAMILIES:
        if only and family.name not in only:
            continue
        for spelling in SPELLINGS:
            with tempfile.TemporaryDirectory() as folder:
                one = cell(family, spelling, Path(folder))
            print(f"{one.family:14} {one.spelling:14} {one.problem or _text(one)}", flush=True)
            yield one


def main() -> int:
    """Print the table, write it, and say by the exit status whether it is complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="families to run")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the cells")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    done = list(cells(arguments.only))
    if arguments.markdown is not None:
        arguments.markdown.write_text(document(done))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in done], indent=1) + "\n")
    lost = [f"{one.family} {one.spelling}" for one in done if not one.passed]
    print(f"{len(done)} cells, {len(lost)} incomplete{': ' if lost else ''}{', '.join(lost)}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
