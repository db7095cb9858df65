"""Whether the TensorRT packages that are here build for this GPU, open the plan, and answer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from executor_overhead import load

from fuselage.engines import host
from fuselage.engines.base import ENGINE_FACTS, BuildConfig, LoadOptions
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.engine import TensorRtEngine
from fuselage.engines.tensorrt.facts import PlanFacts
from fuselage.engines.tensorrt.flavour import FLAVOURS, targetable
from fuselage.errors import FuselageError
from fuselage.graph.tensors import ShapeProfile
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import lowering

from .encoder import Encoder
from .part import Findings, Sizes, SkipPartError, relative_error, spread


def measure(sizes: Sizes) -> Findings:
    """One row a flavour; a refusal is a finding, with TensorRT's own words."""
    findings = Findings()
    missing = []
    for target in FLAVOURS:
        backend = TensorRtBackend.of(target)
        if blocker := backend.build_blocker():
            missing.append(f"{target}: {blocker}")
            continue
        findings.row(target, **_tried(backend, sizes))
    if not findings.rows:
        raise SkipPartError("; ".join(missing))
    findings.notes += missing
    return findings


def _tried(backend: TensorRtBackend, sizes: Sizes) -> dict[str, Any]:
    encoder = Encoder.make(sizes)
    graph = PassPipeline(lowering(backend.target, "fp16")).run(encoder.graph())
    valid = targetable(backend.flavour.module())
    here = tuple(gpu.compute_capability for gpu in host.gpus())[:1]
    known = tuple(name for name in here if name in valid)
    axes = {"batch": (1, 1, 8), "sequence": (1, sizes.sequence, sizes.sequence)}
    config = BuildConfig(profile=ShapeProfile(axes), compute_capabilities=known)
    found: dict[str, Any] = {
        "version": backend.flavour.version(),
        "gpu": here[0] if here else "none",
        "compiles_for_it": bool(known) if valid else bool(here),
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            artifact = backend.build(graph, config, Path(folder))
            found |= {"build_s": artifact.facts["build_seconds"], "bytes": artifact.facts["bytes"]}
            differs = backend.mismatches(Path(folder))
            found["differs"] = "; ".join(map(str, differs))
            found |= _answers(backend, encoder, Path(folder), sizes)
        except FuselageError as error:
            found |= {"runs": False, "refusal": str(error)}
    return found


def _answers(
    backend: TensorRtBackend, encoder: Encoder, folder: Path, sizes: Sizes
) -> dict[str, Any]:
    import onnx_ir as ir
    import onnxruntime

    feeds = encoder.feeds(1)
    model = ir.to_proto(encoder.graph().model).SerializeToString()
    with _opened(backend, folder, model, sizes) as engine:
        answer = engine.run(feeds)["hidden"]
        taken = spread(lambda: engine.run(feeds), sizes)
        notes = "; ".join(engine.notes)
    wanted = onnxruntime.InferenceSession(model).run(["hidden"], feeds)[0]
    error = relative_error(answer, wanted)
    return {"runs": True, "relative_error": error, "notes": notes, **taken}


def _opened(backend: TensorRtBackend, folder: Path, model: bytes, sizes: Sizes) -> Any:
    """The plan on the GPU; in a smoke run the graph instead, behind a fake package and GPU."""
    if not sizes.smoke:
        return backend.load(folder, LoadOptions())
    fakes = load("fake")
    cuda = fakes.FakeCuda()
    trt = fakes.FakeTensorRt(backend.flavour.package, cuda)
    facts = PlanFacts.read(folder / ENGINE_FACTS, backend.target)
    return TensorRtEngine.open(trt, Cuda(cuda), fakes.onnx_plan(model), facts)
