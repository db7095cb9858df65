"""One optimizer on one file, in its own process; run by peers.py with the Python that has the tool.

    python benchmarks/peer_worker.py TOOL IN.onnx OUT.onnx [--heads N] [--hidden N] [--type NAME]

The last line on stdout is JSON: seconds of CPU and wall clock, and the growth of the peak memory
over what the process held after importing the tool.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Optimize = Callable[[str, str], None]


def ort_transformers(arguments: argparse.Namespace) -> Optimize:
    """onnxruntime.transformers.optimizer, the model type and head count given."""
    from onnxruntime.transformers.optimizer import optimize_model

    def run(source: str, out: str) -> None:
        model = optimize_model(
            source,
            model_type=arguments.type,
            num_heads=arguments.heads,
            hidden_size=arguments.hidden,
            opt_level=1,
        )
        model.save_model_to_file(out)

    return run


def ort_fusions(_: argparse.Namespace) -> Optimize:
    """onnxscript.rewriter.ort_fusions."""
    import onnx_ir as ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    def run(source: str, out: str) -> None:
        model, _counts = optimize_for_ort(ir.load(source))
        ir.save(model, out)

    return run


def onnxslim(_: argparse.Namespace) -> Optimize:
    """onnxslim.slim."""
    import onnxslim as tool

    def run(source: str, out: str) -> None:
        tool.slim(source, out)

    return run


def onnxsim(_: argparse.Namespace) -> Optimize:
    """onnxsim.simplify."""
    import onnx
    import onnxsim as tool

    def run(source: str, out: str) -> None:
        model, _checked = tool.simplify(source)
        onnx.save(model, out)

    return run


def fuselage(_: argparse.Namespace) -> Optimize:
    """The canonical passes and the lowering for ort-cpu."""
    from fuselage.graph.model import Graph
    from fuselage.passes.pipeline import PassPipeline
    from fuselage.passes.presets import CANONICAL, lowering

    def run(source: str, out: str) -> None:
        passes = (*CANONICAL, *lowering("ort-cpu", "fp32"))
        PassPipeline(passes).run(Graph.load(source)).save(out)

    return run


TOOLS: dict[str, Callable[[argparse.Namespace], Optimize]] = {
    "fuselage": fuselage,
    "onnxruntime.transformers": ort_transformers,
    "onnxscript ort_fusions": ort_fusions,
    "onnxslim": onnxslim,
    "onnxsim": onnxsim,
}


def resident_mb(name: str) -> float:
    """A memory figure of this process from the kernel, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run the tool and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--heads", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=0)
    parser.add_argument("--type", default="bert")
    arguments = parser.parse_args()
    result: dict[str, Any] = {}
    try:
        optimize = TOOLS[arguments.tool](arguments)
        before = resident_mb("VmRSS")
        cpu, wall = time.process_time(), time.perf_counter()
        optimize(arguments.source, arguments.out)
        result["cpu_seconds"] = time.process_time() - cpu
        result["seconds"] = time.perf_counter() - wall
        result["peak_mb"] = resident_mb("VmHWM") - before
    except BaseException as error:  # a tool may even call sys.exit
        result["error"] = f"{type(error).__name__}: {str(error).strip()[:200]}"
    print("\n" + json.dumps(result))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
