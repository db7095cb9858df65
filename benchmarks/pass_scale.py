"""What the canonical passes cost: on BERT-base, at twice the depth, and at 2.5 GB of weights.

    python benchmarks/pass_scale.py [--folder DIR]

Graphs are random-weight BERTs exported with torch.export and kept in the folder. Seconds are CPU
time of one thread, the best of five runs after one that imports what is needed. Memory is the peak
of the resident set over what the process held before it opened the model; the 2.5 GB model is a
12-layer graph whose weights are a sparse file of zeros.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx_ir as ir

from fuselage.graph.model import Graph
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import CANONICAL

RUNS = 5
WIDEN = 8
"""256 hidden units become 2048, 1024 inner ones 8192, heads of 8 heads of 64."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "pass-scale")
    parser.add_argument("--measure-memory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_memory is not None:
        print(measure_memory(arguments.measure_memory))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    base = exported(arguments.folder, hidden=768, heads=12, inner=3072, layers=12)
    ((seconds, before, after),) = cpu_seconds(base)
    print(f"bert-base: {before} -> {after} nodes in {seconds:.2f} s CPU")
    depths = [
        exported(arguments.folder, hidden=64, heads=4, inner=96, layers=layers)
        for layers in (24, 48)
    ]
    timed = cpu_seconds(*depths)
    print(
        f"24 -> 48 layers: {timed[0][1]} -> {timed[1][1]} nodes, {timed[0][0]:.2f} s -> "
        f"{timed[1][0]:.2f} s, {timed[1][0] / timed[0][0]:.2f}x"
    )
    print(memory_report(arguments.folder))
    print("every weight transposed: " + memory_report(arguments.folder, transposed=True))


def exported(folder: Path, *, hidden: int, heads: int, inner: int, layers: int) -> Path:
    """A BERT of these sizes as the dynamo exporter writes it with sdpa attention."""
    path = folder / f"bert-{hidden}-{heads}-{inner}-{layers}.onnx"
    if not path.exists():
        from families.exporters import Spelling, export  # torch: not in the process measured
        from families.models import FAMILIES, Width

        family = next(family for family in FAMILIES if family.name == "bert")
        export(family, Spelling("dynamo", "sdpa"), path, Width(hidden, heads, heads, inner, layers))
    return path


def cpu_seconds(*paths: Path) -> list[tuple[float, int, int]]:
    """CPU seconds of the canonical passes, and the nodes before and after, of every graph.

    The graphs take turns, because a shared machine is not as fast now as a minute ago.
    """
    graphs = [Graph.load(path) for path in paths]
    times: list[list[float]] = [[] for _ in paths]
    done = graphs
    for _ in range(RUNS + 1):
        done = []
        for graph, series in zip(graphs, times, strict=True):
            start = time.thread_time()
            done.append(PassPipeline(CANONICAL).run(graph))
            series.append(time.thread_time() - start)
    return [
        (min(series[1:]), len(graph.model.graph), len(after.model.graph))
        for graph, series, after in zip(graphs, times, done, strict=True)
    ]


def memory_report(folder: Path, *, transposed: bool = False) -> str:
    """Peak growth over loading, passing and saving 2.5 GB, and whether the result is whole."""
    large = folder / "large"
    large.mkdir(exist_ok=True)
    base = exported(folder, hidden=256, heads=32, inner=1024, layers=12)
    model = widened(base, large, transposed=transposed)
    command = [sys.executable, __file__, "--measure-memory", str(model)]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    shutil.rmtree(large)
    return told.stdout.strip()


def widened(path: Path, folder: Path, *, transposed: bool = False) -> Path:
    """The same graph with eight times the width, its weights in a sparse file."""
    model = ir.load(path)
    offset = 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        array = tensor.numpy()
        if array.size <= 4:  # scales and targets of Reshape, among them the size of a head
            value.const_value = ir.tensor(array * WIDEN if (array == 8).all() else array, name=name)
            continue
        dims = [dim * WIDEN if dim in (256, 1024) else dim for dim in array.shape]
        size = array.itemsize
        for dim in dims:
            size *= dim
        value.shape = ir.Shape(dims)
        value.const_value = ir.ExternalTensor(
            "zeros", offset, size, tensor.dtype, shape=value.shape, name=name, base_dir=str(folder)
        )
        offset += size
    for node in tuple(model.graph):
        for value in node.outputs:
            value.shape = None
        if transposed and node.op_type == "MatMul":
            transpose_weight(model.graph, node)
    for value in model.graph.outputs:
        value.shape = ir.Shape(["batch", "sequence", 256 * WIDEN])
    with (folder / "zeros").open("wb") as file:
        file.truncate(offset)
    ir.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def transpose_weight(graph: ir.Graph, product: ir.Node) -> None:
    """Store the weight of a product the other way round, as many exporters do."""
    weight = product.inputs[1]
    if weight is None or weight.const_value is None:
        return
    assert isinstance(weight.const_value, ir.ExternalTensor)
    stored = weight.const_value
    weight.shape = ir.Shape(reversed(stored.shape.numpy()))
    weight.const_value = ir.ExternalTensor(
        stored.location, stored.offset, stored.length, stored.dtype,
        shape=weight.shape, name=stored.name or "", base_dir=stored.base_dir,
    )  # fmt: skip
    node = ir.node("Transpose", [weight], {"perm": [1, 0]})
    graph.insert_before(product, node)
    product.replace_input_with(1, node.outputs[0])


def measure_memory(path: Path) -> str:
    """Load, pass, save elsewhere and load again, in a process of its own."""
    PassPipeline(CANONICAL)
    before = _resident("VmRSS")
    graph = Graph.load(path)
    done = PassPipeline(CANONICAL).run(graph)
    fused = done.op_counts.get("Attention", 0)
    elsewhere = path.parent / "saved"
    elsewhere.mkdir()
    files = done.save(elsewhere / "canonical.onnx")
    grown = _resident("VmHWM") - before
    moved = path.parent / "moved"
    elsewhere.rename(moved)
    again = Graph.load(moved / "canonical.onnx")
    same = again.op_counts == done.op_counts and again.weight_bytes == done.weight_bytes
    written = sum(os.path.getsize(moved / file.name) for file in files)
    return (
        f"{graph.weight_bytes / 1e9:.2f} GB of weights: peak growth {grown / 1e6:.0f} MB through "
        f"load, passes and save; {fused} of 12 attentions fused; {written / 1e9:.2f} GB written, "
        f"{'loads' if same else 'DOES NOT LOAD'} from another folder"
    )


def _resident(key: str) -> int:
    """A counter of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{key}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
