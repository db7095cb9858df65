"""Eight faults planted into a model: does `compare` fail, and name the layer of each?

    python benchmarks/planted_faults.py [--model minilm] [--layer N] [--exporter dynamo|legacy]
        [--weights pretrained|random] [--json FILE]

The model is exported and made canonical; each fault is planted there, and the result is lowered for
ort-cpu as a build does. All faulty graphs and the sound one are compared with PyTorch by one
``fuselage compare``. The exit status is 1 when a fault passes, the wrong layer is named, or the
sound graph fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from planted.faults import FAULTS, Fault

from fuselage.compiler.cli import run
from fuselage.compiler.exporting.export import export, load_reference
from fuselage.compiler.models.source import ModelSource, resolve_model
from fuselage.graph.model import Graph
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import CANONICAL, lowering

Exporter = Literal["dynamo", "legacy"]
SOUND = "none"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one fault.

    Attributes:
        fault: that was planted.
        relative: worst relative error of an output; None when it is no number.
        caught: whether `compare` failed.
        layer: that it named.
        node: of the candidate that it named.
        error: local relative error there.
        wanted: what the layer should contain.
    """

    fault: str
    relative: float | None
    caught: bool
    layer: str | None
    node: str | None
    error: float | None
    wanted: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether it was caught and the right layer was named; nothing is to be caught of none."""
        if self.fault == SOUND:
            return not self.caught
        return self.caught and any(part in (self.layer or "") for part in self.wanted)

    def __str__(self) -> str:
        """One line of the table."""
        relative = "  NaN  " if self.relative is None else f"{self.relative:.1e}"
        error = "NaN" if self.error is None else f"{self.error:.1e}"
        where = "" if not self.caught else f"{self.layer} ({self.node}), local error {error}"
        state = "ok " if self.passed else "BAD"
        caught = "fails " if self.caught else "passes"
        return f"{state} {self.fault:20} {relative} {caught} {where}"


def canonical(source: ModelSource, exporter: Exporter, folder: Path) -> Graph:
    """The canonical graph of a model, through one of PyTorch's exporters."""
    if exporter == "dynamo":
        graph = export(source).graph
    else:
        graph = _legacy(source, folder / "legacy.onnx")
    return PassPipeline(CANONICAL).run(graph)


def _legacy(source: ModelSource, path: Path) -> Graph:
    reference = load_reference(source)
    ids = torch.arange(5, 38).reshape(3, 11)
    filled = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    example = {name: filled.get(name, torch.zeros_like(ids)) for name in reference.inputs}
    axes = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            reference.module,
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=list(reference.outputs),
            dynamic_axes=dict.fromkeys(example, axes)
            | {name: {0: "batch"} for name in reference.outputs},
            opset_version=17,
            dynamo=False,
        )
    return Graph.load(path)


def write_faulty(graph: Graph, fault: Fault, layer: int, path: Path) -> Path:
    """Plant a fault, lower for ort-cpu, write."""
    faulty = fault.planted(graph, layer)
    if not fault.half:
        faulty = PassPipeline(lowering("ort-cpu", "fp32")).run(faulty)
    faulty.save(path)
    return path


def compared(reference: str, files: dict[str, Path], document: Path) -> dict[str, Any]:
    """Compare all files with the reference at once; name of a fault -> what was found."""
    names = {f"ort:{path}": name for name, path in files.items()}
    status = run(["compare", reference, *names, "--out", str(document), "--quiet"])
    content = json.loads(document.read_text())
    found = {names[item["name"]]: item for item in content["candidates"]}
    failed = any(not item["passed"] for item in found.values())
    if status != int(failed):
        raise SystemExit(f"compare ended with {status}, expected {int(failed)}")
    return found


def row(fault: str, wanted: tuple[str, ...], found: dict[str, Any]) -> Row:
    """One row of the table, from one candidate of the document."""
    facts = found.get("divergence_facts") or found.get("divergence") or {}
    facts = facts if isinstance(facts, dict) else {}
    errors = [output["metrics"].get("relative") for output in found["outputs"]]
    return Row(
        fault=fault,
        relative=None if None in errors else max(errors),
        caught=not found["passed"],
        layer=facts.get("layer"),
        node=facts.get("node"),
        error=facts.get("error"),
        wanted=wanted,
    )


def main() -> int:
    """Plant, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="minilm", help="alias, folder or hub id")
    parser.add_argument("--weights", default="pretrained", choices=("pretrained", "random"))
    parser.add_argument("--layer", type=int, default=3, help="where to plant, from 0")
    parser.add_argument("--exporter", default="dynamo", choices=("dynamo", "legacy"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    arguments = parser.parse_args()
    source = resolve_model(arguments.model, weights=arguments.weights)
    is_random = "random:" if arguments.weights == "random" else ""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graph = canonical(source, arguments.exporter, folder)
        files = {
            fault.name: write_faulty(graph, fault, arguments.layer, folder / f"{number}.onnx")
            for number, fault in enumerate(FAULTS)
        }
        files[SOUND] = folder / "sound.onnx"
        PassPipeline(lowering("ort-cpu", "fp32")).run(graph).save(files[SOUND])
        reference = f"torch:{is_random}{arguments.model}"
        found = compared(reference, files, folder / "comparison.json")
    wanted = {fault.name: fault.at(arguments.layer) for fault in FAULTS}
    rows = [row(name, wanted.get(name, ()), item) for name, item in found.items()]
    print(f"{arguments.model}, layer {arguments.layer}, {arguments.exporter} exporter")
    print("\n".join(map(str, rows)))
    good = sum(one.passed for one in rows)
    print(f"{good} of {len(rows)} as wanted, {time.perf_counter() - started:.0f} s")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n")
    return 0 if good == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
