"""What a lowering for ``ort-cpu`` is worth: the engine of a bundle with one pass more or less.

    python benchmarks/ablation.py [--bundle DIR] [--seconds 12]

All variants are lowered from the bundle's canonical graph, opened with the options of the engine,
and timed in interleaved rounds in one process, two threads, no spinning. A ratio above 1 is what
the engine would lose by the change; the median of the ratios within a round is printed.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from latency import THREADS, feeds

import fuselage
from fuselage.engines.ort.session import Provider, open_session, session_options
from fuselage.graph.model import Graph
from fuselage.passes.lowering.fold_attention_bias import FoldAttentionBias
from fuselage.passes.lowering.fold_residual_bias import FoldResidualBias
from fuselage.passes.lowering.merge_qkv import MergeQkv
from fuselage.passes.lowering.split_packed_weights import SplitPackedWeights
from fuselage.passes.normalize.clean_up import CleanUp
from fuselage.passes.pipeline import PassPipeline

_CPU = Provider(name="CPUExecutionProvider", extra="cpu")


def variants(canonical: Graph) -> Mapping[str, Graph]:
    """The lowered graph, and the same with one part more or less."""

    def lowered(graph: Graph, *passes: Any) -> Graph:
        return PassPipeline((*passes, CleanUp())).run(graph)

    residual, bias, packed = FoldResidualBias(), FoldAttentionBias(), SplitPackedWeights()
    return {
        "engine": lowered(canonical, residual, packed, bias),
        "without fold-residual-bias": lowered(canonical, packed, bias),
        "without fold-attention-bias": lowered(canonical, residual, packed),
        "with merge-qkv": lowered(canonical, residual, MergeQkv()),
        "unfolded, 4-D attention": lowered(split_heads(canonical)),
    }


def split_heads(graph: Graph) -> Graph:
    """Undo flatten-attention-heads: Attention in its 4-D form between Reshape and Transpose."""
    graph = graph.clone()
    for node in tuple(graph.model.graph):
        if node.op_type == "Attention":
            _split(graph.model.graph, node)
    return graph


def _split(graph: ir.Graph, node: ir.Node) -> None:
    heads = node.attributes["q_num_heads"].as_int()
    tape = ir.tape.Tape()
    split = tape.initializer(ir.tensor(np.array([0, 0, heads, -1])), f"{node.name}.split")
    merge = tape.initializer(ir.tensor(np.array([0, 0, -1])), f"{node.name}.merge")
    inputs = [
        tape.op("Transpose", [tape.op("Reshape", [value, split])], {"perm": [0, 2, 1, 3]})
        for value in node.inputs[:3]
    ]
    scale = node.attributes["scale"].as_float()
    wide = tape.op("Attention", [*inputs, node.inputs[3]], {"scale": scale})
    flat = tape.op("Reshape", [tape.op("Transpose", [wide], {"perm": [0, 2, 1, 3]}), merge])
    for value in tape.initializers:
        graph.register_initializer(value)
    old = node.outputs[0]
    flat.shape, flat.type = old.shape, old.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, [old], [flat])


def measure(
    sessions: Mapping[str, Any], inputs: Mapping[str, np.ndarray], seconds: float
) -> dict[str, list[float]]:
    """Seconds of every variant in every round."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["engine"]) < 15:
        for name in random.sample(sorted(sessions), len(sessions)):
            sessions[name].run(None, inputs)
            start = time.perf_counter()
            sessions[name].run(None, inputs)
            times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("build/minilm"))
    parser.add_argument("--shape", action="append", help="BATCHxSEQUENCE, repeatable")
    parser.add_argument("--seconds", type=float, default=12.0, help="for each shape")
    arguments = parser.parse_args()
    if not arguments.bundle.exists():
        fuselage.build("minilm", out=arguments.bundle)
    random.seed(0)
    sessions = {}
    with tempfile.TemporaryDirectory() as folder:
        canonical = Graph.load(arguments.bundle / "graph" / "model.onnx")
        for number, (name, graph) in enumerate(variants(canonical).items()):
            path = Path(folder) / f"{number}.onnx"
            graph.save(path)
            sessions[name] = open_session(str(path), session_options(THREADS), _CPU, optimize=True)
    print(f"{arguments.bundle}, {THREADS} threads, load average {os.getloadavg()[0]:.2f}")
    for text in arguments.shape or ("1x128", "8x128"):
        batch, sequence = map(int, text.split("x"))
        times = measure(sessions, feeds(batch, sequence), arguments.seconds)
        engine = np.array(times["engine"])
        for name, seconds in times.items():
            ratio = float(np.median(np.array(seconds) / engine))
            print(f"{text:>6}  {name:<28} {np.median(seconds) * 1e3:8.2f} ms  {ratio:.3f}")


if __name__ == "__main__":
    main()
