"""Latency of every family on ort-cpu against ONNX Runtime on the plain exporter output.

    python benchmarks/family_latency.py [--only NAME ...] [--seconds 20] [--peers build/peers]

The baseline is what a user gets without fuselage: the dynamo exporter at its default opset with
sdpa attention (eager where transformers has no sdpa), every optimisation of ONNX Runtime on. Both
sides run in this process with two threads and no spinning, in rounds of random order; a figure is
the median of the ratios within a round. Cached decoders are timed at one new token after 127.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from families.exporters import Spelling, export
from families.models import FAMILIES, Family, make
from latency import THREADS, open_plain
from peers import peers_python, run_tool

from fuselage.engines.ort.session import Provider, open_session, session_options
from fuselage.graph.model import Graph
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import CANONICAL, lowering

SHAPES = ((1, 128), (8, 128))
TARGETS: Mapping[str, float] = {
    "distilbert": 0.87,
    "bart": 0.85,
    "modernbert": 0.83,
    "llama": 0.90,
    "qwen3": 0.90,
    "gpt2": 0.95,
}
"""Largest ratio wanted; 1.0 for the others. Each is below the best peer measured."""

_CPU = Provider(name="CPUExecutionProvider", extra="cpu")


def baseline(family: Family, folder: Path) -> Path:
    """The plain export; kept in the folder."""
    attention = "eager" if family.name in ("mpnet", "deberta-v2") else "sdpa"
    path = folder / f"{family.name}.dynamo-{attention}.onnx"
    if not path.exists():
        export(family, Spelling("dynamo", attention), path, family.width)
    return path


def engine(graph: Graph, folder: Path) -> Any:
    """A session as the ort-cpu engine opens it: optimised once, saved, reloaded."""
    path, *_ = graph.save(folder / "lowered.onnx")
    options = session_options(THREADS)
    options.optimized_model_filepath = str(folder / "engine.onnx")
    open_session(str(path), options, _CPU, optimize=True)
    return open_session(str(folder / "engine.onnx"), session_options(THREADS), _CPU, optimize=False)


def lowered(path: Path) -> Graph:
    """The graph fuselage runs on this CPU."""
    return PassPipeline((*CANONICAL, *lowering("ort-cpu", "fp32"))).run(Graph.load(path))


def feeds(family: Family, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Random tokens; a cached decoder gets one new token and the rest of the length as cache."""
    traced = make(family, "eager", family.width)
    batch, sequence = shape
    past = sequence - 1 if traced.cache is not None else 0
    tensors = traced.feeds(batch, 1 if past else sequence, past=past, target=sequence)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def measure(sessions: Mapping[str, Any], data: Any, seconds: float) -> dict[str, Any]:
    """Interleave all sessions until the time is up; at least 15 rounds."""
    wanted = {
        name: {spec.name: data[spec.name] for spec in session.get_inputs()}
        for name, session in sessions.items()
    }
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for name, session in sessions.items():
        for _ in range(3):
            session.run(None, wanted[name])
    stop = time.perf_counter() + seconds
    names = list(sessions)
    while len(times[names[0]]) < 15 or time.perf_counter() < stop:
        random.shuffle(names)
        for name in names:
            started = time.perf_counter()
            sessions[name].run(None, wanted[name])
            times[name].append(time.perf_counter() - started)
    plain = np.array(times["plain"])
    return {
        name: {
            "milliseconds": float(np.median(values) * 1e3),
            "ratio": float(np.median(np.array(values) / plain)),
            "rounds": len(values),
        }
        for name, values in times.items()
    }


PEER = "onnxscript ort_fusions"
"""The peer that fuses most of these graphs."""


def run(family: Family, folder: Path, seconds: float, peers: Path | None) -> dict[str, Any]:
    """Both shapes of one family; the peer takes part when its environment is given."""
    path = baseline(family, folder)
    graph = lowered(path)
    with tempfile.TemporaryDirectory() as scratch:
        sessions = {"plain": open_plain(path), "fuselage": engine(graph, Path(scratch))}
        if peers is not None:
            out = Path(scratch) / "peer.onnx"
            run_tool(PEER, peers_python(peers), path, out, family)
            try:
                sessions["peer"] = open_plain(out)
            except Exception as error:  # each ONNX Runtime status is its own subclass
                reason = str(error).splitlines()[0][:160]
                print(f"{family.name}: what {PEER} made does not open: {reason}", flush=True)
        result: dict[str, Any] = {
            "nodes": len(ir.load(path).graph),
            "lowered": len(graph.model.graph),
        }
        for shape in SHAPES:
            result[f"{shape[0]}x{shape[1]}"] = measure(sessions, feeds(family, shape), seconds)
    return result


def main() -> None:
    """Print a line a family and shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=20, help="a family and shape")
    parser.add_argument("--graphs", type=Path, metavar="DIR", help="keep the exports here")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="time the best peer too")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    random.seed(0)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.graphs or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for family in FAMILIES:
            if arguments.only and family.name not in arguments.only:
                continue
            result = run(family, folder, arguments.seconds, arguments.peers)
            results[family.name] = result
            target = TARGETS.get(family.name, 1.0)
            for batch, sequence in SHAPES:
                figures = result[f"{batch}x{sequence}"]
                plain, ours = figures["plain"], figures["fuselage"]
                peer = f"  {PEER} {figures['peer']['ratio']:.3f}" if "peer" in figures else ""
                print(
                    f"{family.name:14} ({batch}, {sequence})  {plain['milliseconds']:8.2f} ms -> "
                    f"{ours['milliseconds']:8.2f} ms  ratio {ours['ratio']:.3f} (wanted {target})"
                    f"{peer}  load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
