"""ONNX Runtime's CUDA provider on the canonical graph in float16, through fuselage's own engine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fuselage.engines.base import BuildConfig, Engine, LoadOptions
from fuselage.engines.ort.backend import OrtBackend
from fuselage.graph.tensors import ShapeProfile
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import Precision, lowering

from .encoder import Encoder
from .part import Findings, Sizes, SkipPartError, relative_error, spread

_FORMS: tuple[tuple[str, Precision, float], ...] = (
    ("ort-cuda", "fp16", 1e-2),
    ("ort-cuda", "fp32", 1e-4),
)
_SMOKE_FORMS: tuple[tuple[str, Precision, float], ...] = (("ort-cpu", "fp32", 1e-5),)


def measure(sizes: Sizes) -> Findings:
    """Latency from numpy to numpy at every batch, and the error against float32 on the CPU."""
    forms = _SMOKE_FORMS if sizes.smoke else _FORMS
    if blocker := OrtBackend(forms[0][0]).build_blocker():
        raise SkipPartError(blocker)
    findings = Findings()
    encoder = Encoder.make(sizes)
    most = max(sizes.batches)
    axes = {"batch": (1, 1, most), "sequence": (1, sizes.sequence, sizes.sequence)}
    config = BuildConfig(profile=ShapeProfile(axes))
    with tempfile.TemporaryDirectory() as folder:
        reference = _open(encoder, "ort-cpu", "fp32", config, Path(folder) / "reference")
        with reference:
            wanted = reference.run(encoder.feeds(1))["hidden"]
        for target, precision, bound in forms:
            place = Path(folder) / f"{target}-{precision}"
            with _open(encoder, target, precision, config, place) as engine:
                error = relative_error(engine.run(encoder.feeds(1))["hidden"], wanted)
                if error > bound:
                    raise AssertionError(f"{target} {precision}: error {error:.1e} > {bound:.0e}")
                for batch in sizes.batches:
                    feeds = encoder.feeds(batch)
                    found = spread(lambda: engine.run(feeds), sizes)  # noqa: B023
                    rate = encoder.flops(batch) / found["p50_ms"] / 1e9
                    name = f"{target} {precision}, numpy to numpy"
                    findings.row(name, batch=batch, **found, tflops=rate, relative_error=error)
                findings.notes += [f"{target} {precision}: {note}" for note in engine.notes]
    return findings


def _open(
    encoder: Encoder, target: str, precision: Precision, config: BuildConfig, place: Path
) -> Engine:
    backend = OrtBackend(target)
    graph = PassPipeline(lowering(target, precision)).run(encoder.graph())
    place.mkdir()
    backend.build(graph, config, place)
    return backend.load(place, LoadOptions())
