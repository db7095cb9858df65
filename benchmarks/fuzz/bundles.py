"""A small sound bundle to damage: every kind of file that a loader reads, with real engines."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx_ir as ir

from fuselage.calibration.statistics.extrema import TensorStatistics
from fuselage.calibration.table import CALIBRATION_FILE, CalibrationTable, TensorRange
from fuselage.compiler.report import REPORT
from fuselage.engines.base import BuildConfig
from fuselage.engines.bundle import SOURCE, BundleWriter
from fuselage.engines.manifest import Manifest, ModelId, TargetEntry
from fuselage.engines.ort.backend import OrtBackend
from fuselage.engines.ort.session import runtime_version
from fuselage.engines.text.task import TASK_FILE, TaskSpec
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile

from .seeds import make_seed

TEXTS = ("the cat sat", "a dog")
_WORDS = ("[PAD]", "[UNK]", "the", "a", "cat", "dog", "sat", "on")
_PROFILE = {"batch": (1, 2, 8), "sequence": (1, 4, 16)}
_PLAN = b"ftrt" + bytes(range(256))


def write_bundle(folder: Path) -> None:
    """A bundle with an ort-cpu engine, a TensorRT-RTX plan in name, tokenizer, task and reports."""
    graph = Graph(ir.from_proto(make_seed("encoder")))
    with BundleWriter(folder) as writer:
        writer.add("tokenizer.json", _tokenizer())
        writer.add(TASK_FILE, _task().to_json())
        writer.add(CALIBRATION_FILE, _calibration(graph).to_json())
        writer.add(REPORT, json.dumps({"quantization": {"kept_float": [{"node": "n"}]}}))
        graph.save(writer.path(SOURCE))
        config = BuildConfig(profile=ShapeProfile(_PROFILE), threads=1)
        OrtBackend("ort-cpu").build(graph, config, writer.folder("ort-cpu"))
        writer.add("tensorrt-rtx/engine.plan", _PLAN)
        writer.add("tensorrt-rtx/engine.json", json.dumps(_plan_facts(), indent=2))
        writer.commit(_manifest())


def _tokenizer() -> str:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    vocabulary = {word: index for index, word in enumerate(_WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A [PAD]", special_tokens=[("[PAD]", 0)])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]"])
    return str(tokenizer.to_str(pretty=True))


def _task() -> TaskSpec:
    return TaskSpec(
        task="feature-extraction",
        inputs=("input_ids", "attention_mask"),
        outputs=("hidden",),
        max_tokens=16,
    )


def _calibration(graph: Graph) -> CalibrationTable:
    statistics = TensorStatistics(count=64, minimum=-1.5, maximum=2.0)
    return CalibrationTable(
        method="absmax",
        texts=2,
        tokens=8,
        source="two texts",
        graph_digest=graph.digest(),
        data_digest="d" * 64,
        ranges={"n": TensorRange(2.0, statistics), "g": TensorRange(2.0, statistics)},
    )


def _plan_facts() -> dict[str, Any]:
    dims = ["batch", "sequence"]
    hidden = {"name": "hidden", "dtype": "float32", "dims": [*dims, 8]}
    return {
        "target": "tensorrt-rtx",
        "package_version": "1.7.1.116",
        "compute_capabilities": ["SM80", "SM89"],
        "bytes": len(_PLAN),
        "sha256": hashlib.sha256(_PLAN).hexdigest(),
        "inputs": [
            {"name": name, "dtype": "int64", "dims": dims}
            for name in ("input_ids", "attention_mask")
        ],
        "outputs": [hidden],
        "profile": _PROFILE,
        "profiles": [_PROFILE],
        "buckets": [4, 16],
        "activation_bytes": 1024,
        "weight_bytes": 4096,
        "caches": {},
        "built_on": {"gpu": "NVIDIA L4", "compute_capability": "SM89", "driver": "13.0"},
    }


def _manifest() -> Manifest:
    versions = {"ort-cpu": {"onnxruntime": runtime_version()}, "tensorrt-rtx": {}}
    return Manifest(
        model=ModelId(id="small/encoder", revision=None, digest="d" * 64),
        weights="random",
        task="feature-extraction",
        recipe={"precision": "fp32", "targets": ["ort-cpu"], "max_drop": 0.5},
        passes={"ort-cpu": ("fuse-gelu",)},
        targets={
            target: TargetEntry(
                precision="fp32", folder=target, versions=versions[target], profile=_PROFILE
            )
            for target in versions
        },
        verification={"passed": True},
    )
