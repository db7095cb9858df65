"""A small but complete bundle with a real ONNX Runtime engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fuselage.engines.base import BuildConfig
from fuselage.engines.bundle import SOURCE, BundleWriter
from fuselage.engines.manifest import Manifest, ModelId, TargetEntry
from fuselage.engines.ort.backend import OrtBackend
from fuselage.graph.model import Graph


def _manifest(task: str = "embedding") -> Manifest:
    return Manifest(
        model=ModelId(id="tiny/encoder", revision=None, digest="d" * 64),
        weights="random",
        task=task,
        recipe={"precision": "fp32", "targets": ["ort-cpu"], "max_drop": 0.5},
        passes={"ort-cpu": ("fuse-gelu", "convert-precision(dtype='float32')")},
        targets={
            "ort-cpu": TargetEntry(
                precision="fp32",
                folder="ort-cpu",
                versions={"onnxruntime": "1.31.1"},
                profile={"batch": (1, 4, 8), "sequence": (1, 8, 16)},
            )
        },
        verification={"passed": True, "ort-cpu": {"max_abs": 1e-7}},
    )


@pytest.fixture
def manifest() -> Callable[..., Manifest]:
    """manifest(task="embedding"): everything but the files."""
    return _manifest


@pytest.fixture
def write_bundle(tiny: Graph, config: BuildConfig) -> Callable[..., Path]:
    """write_bundle(path, task="embedding"): build and commit."""

    def write(path: Path, task: str = "embedding") -> Path:
        with BundleWriter(path) as writer:
            writer.add("tokenizer.json", '{"model": "none"}')
            writer.add("task.json", f'{{"task": "{task}"}}')
            tiny.save(writer.path(SOURCE))
            OrtBackend("ort-cpu").build(tiny, config, writer.folder("ort-cpu"))
            writer.commit(_manifest(task))
        return path

    return write


@pytest.fixture
def folder(write_bundle: Callable[..., Path], tmp_path: Path) -> Path:
    """A bundle in ``tmp_path / "bundle"``."""
    return write_bundle(tmp_path / "bundle")
