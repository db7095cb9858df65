"""Other graph optimizers on the same graphs: what they fuse, what it costs, what they break.

    python benchmarks/peers.py [--only NAME ...] [--json FILE] [--markdown FILE]

The peers live in an environment of their own, ``build/peers``, made at the first run. Every graph
is exported once, then each tool gets it in a process of its own. A result is *invalid* when ONNX
Runtime refuses it, and *off* when it differs from PyTorch's eager attention by more than 1e-3
(rows without any key are told apart, because only some tools change them).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from families.exporters import SPELLINGS, CannotExportError, export
from families.models import FAMILIES, SMALL, Family, Traceable, make
from family_coverage import CASES
from int8.tables import HEADING, replace_section, section_of
from peer_worker import TOOLS

PACKAGES = (
    "onnxruntime==1.31.1",
    "onnxscript==0.7.2",
    "onnxslim==0.1.98",
    "onnxsim==0.8.1",
    "onnx==1.23.2",
    "sympy",
    "torch==2.13.0",  # imported by onnxruntime.transformers
)
TYPES = {"gpt2": "gpt2", "vit": "vit", "t5": "t5", "bart": "bart", "qwen3": "qwen3"}
"""Family prefix -> model type of onnxruntime.transformers; ``bert`` for the other encoders."""

ATTENTION = ("Attention", "MultiHeadAttention", "GroupQueryAttention")
_TIMEOUT = 300
_OFF = 1e-3


def peers_python(folder: Path) -> Path:
    """The interpreter of the peers' environment, made when it is not there."""
    python = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES]
        subprocess.run(command, check=True)
        (folder / ".complete").touch()
    return python


def run_tool(tool: str, python: Path, source: Path, out: Path, family: Family) -> dict[str, Any]:
    """What a tool took, or its error."""
    decoders = "qwen3" if family.grouped else "bert"
    kind = next((t for prefix, t in TYPES.items() if family.name.startswith(prefix)), decoders)
    command = [
        sys.executable if tool == "fuselage" else str(python),
        str(Path(__file__).with_name("peer_worker.py")),
        tool,
        str(source),
        str(out),
        f"--heads={SMALL.heads}",
        f"--hidden={SMALL.hidden}",
        f"--type={kind}",
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no result in {_TIMEOUT} s"}
    lines = done.stdout.strip().splitlines()
    try:
        return dict(json.loads(lines[-1]))
    except (IndexError, ValueError):
        return {"error": f"the process died with status {done.returncode}"}


def examine(path: Path, reference: Traceable) -> dict[str, Any]:
    """Nodes and fused attentions of a result, and how it answers."""
    graph = ir.load(path).graph
    fused = sum(node.op_type in ATTENTION for node in graph)
    facts: dict[str, Any] = {"nodes": len(graph), "fused": fused}
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        padded = [_difference(session, reference, case) for case in CASES if "full_row" not in case]
        empty = [_difference(session, reference, case) for case in CASES if "full_row" in case]
    except Exception as error:  # each ONNX Runtime status is its own subclass of Exception
        return {**facts, "invalid": str(error).splitlines()[0][:160]}
    return {**facts, "difference": max(padded), "empty_row": max(empty)}


def _difference(session: Any, reference: Traceable, case: dict[str, Any]) -> float:
    feeds = reference.feeds(**case)
    with torch.no_grad():
        wanted = reference.module(*feeds.values())
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    inputs = {spec.name: feeds[spec.name].numpy() for spec in session.get_inputs()}
    got = session.run(list(reference.outputs), inputs)
    pairs = [(a, b.numpy()) for a, b in zip(got, wanted, strict=True) if b.numel()]
    return max(float(np.abs(a - b).max()) if a.shape == b.shape else float("inf") for a, b in pairs)


def rows(only: Sequence[str], python: Path) -> Iterator[dict[str, Any]]:
    """One row a graph and tool, printed as it is done."""
    for family in FAMILIES:
        if only and family.name not in only:
            continue
        reference = make(family, "eager")
        for spelling in SPELLINGS:
            with tempfile.TemporaryDirectory() as scratch:
                source = Path(scratch) / "source.onnx"
                try:
                    export(family, spelling, source)
                except CannotExportError:
                    continue
                for tool in TOOLS:
                    out = Path(scratch) / f"{tool.replace(' ', '_')}.onnx"
                    row = {
                        "family": family.name,
                        "spelling": str(spelling),
                        "tool": tool,
                        "blocks": family.blocks(SMALL),
                        "nodes_before": len(ir.load(source).graph),
                        **run_tool(tool, python, source, out, family),
                    }
                    if out.exists():
                        row |= examine(out, reference)
                    print(f"{family.name:14} {spelling!s:13} {tool:25} {_text(row)}", flush=True)
                    yield row


def _text(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"fails: {row['error'][:80]}"
    text = f"{row['fused']}/{row['blocks']}, {row['nodes']} nodes"
    if "invalid" in row:
        return f"{text}, **invalid**"
    if row["difference"] > _OFF:
        text += ", **off**"
    return text


def table(done: Sequence[dict[str, Any]]) -> str:
    """A row a graph, a column a tool."""
    lines = [
        f"| graph | nodes | {' | '.join(TOOLS)} |",
        f"|---|---|{'---|' * len(TOOLS)}",
    ]
    for key in dict.fromkeys((row["family"], row["spelling"]) for row in done):
        found = {row["tool"]: row for row in done if (row["family"], row["spelling"]) == key}
        before = next(iter(found.values()))["nodes_before"]
        cells = " | ".join(_text(found[tool]) for tool in TOOLS)
        lines.append(f"| {key[0]} {key[1]} | {before} | {cells} |")
    return "\n".join(lines)


def summary(done: Sequence[dict[str, Any]]) -> str:
    """A row a tool: blocks fused, failures, invalid models, empty rows changed, CPU and memory."""
    lines = [
        "| tool | attention fused | fails | invalid | answers off | empty rows like PyTorch eager "
        "| CPU s, median | peak MB, median |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for tool in TOOLS:
        mine = [row for row in done if row["tool"] == tool]
        valid = [row for row in mine if "difference" in row]
        fused = sum(min(row["fused"], row["blocks"]) for row in valid)
        medians = [
            float(np.median([row[key] for row in mine if key in row] or [0]))
            for key in ("cpu_seconds", "peak_mb")
        ]
        lines.append(
            f"| {tool} | {fused} of {sum(row['blocks'] for row in mine)} "
            f"| {sum('error' in row for row in mine)} | {sum('invalid' in row for row in mine)} "
            f"| {sum(row['difference'] > _OFF for row in valid)} "
            f"| {sum(row['empty_row'] <= _OFF for row in valid)} of {len(valid)} "
            f"| {medians[0]:.2f} | {medians[1]:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run everything and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--venv", type=Path, default=Path("build/peers"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    done = list(rows(arguments.only, peers_python(arguments.venv)))
    page = f"""# Other optimizers on the same graphs

Made by `benchmarks/peers.py` on {datetime.now(UTC).date()} with {", ".join(PACKAGES[:5])}.
A cell reads: attention blocks fused / found, nodes after. CPU time and peak memory are those of
these small graphs ({SMALL.layers} layers, hidden size {SMALL.hidden}), imports left out.

{summary(done)}

{table(done)}
"""
    print(summary(done))
    if arguments.markdown is not None:
        int8 = section_of(arguments.markdown, HEADING)  # of int8_peers.py
        arguments.markdown.write_text(replace_section(page, HEADING, int8) if int8 else page)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
