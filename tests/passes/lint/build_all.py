"""Parse and build ONNX files with tensorrt_rtx, each in a process that may crash.

Reads ``[{"path": ..., "gpus": [...]}, ...]`` from stdin, prints ``["name", "outcome"]`` a file.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt

SIZES = (1, 4, 8)


class Log(trt.ILogger):  # type: ignore[misc]
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, msg: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(msg)


def outcome(path: str, gpus: list[str]) -> str:
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(Path(path).read_bytes()):
        return f"refused: {parser.get_error(0).desc()}"
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if not tensor.is_shape_tensor:
            shapes = [[size if dim < 0 else dim for dim in tensor.shape] for size in SIZES]
            profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = len(gpus)
    for index, gpu in enumerate(gpus):
        config.set_compute_capability(trt.ComputeCapability.__members__[gpu], index)
    plan = builder.build_serialized_network(network, config)
    return "built" if plan is not None else f"failed: {'; '.join(log.errors)}"


def say(name: str, result: str) -> None:
    sys.stdout.write(json.dumps([name, result]) + "\n")
    sys.stdout.flush()


def main() -> None:
    for job in json.load(sys.stdin):
        name = Path(job["path"]).stem
        sys.stdout.flush()
        child = os.fork()
        if not child:
            say(name, outcome(job["path"], job["gpus"]))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            say(name, f"crashed: signal {status & 127}")


if __name__ == "__main__":
    main()
