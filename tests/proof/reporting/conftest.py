"""A small bundle of two layers with known numbers, and documents about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from fuselage.engines.bundle import BundleWriter
from fuselage.engines.manifest import Manifest, ModelId, TargetEntry

GRAPH = """
<ir_version: 10, opset_import: ["" : 23]>
model (float[batch, sequence, 4] hidden, float[batch, 1, 1, sequence] mask)
    => (float[batch, sequence, 4] out)
<{weights}>
{{
{layers}
    out = LayerNormalization <axis = -1> (hidden_2, gain)
}}
"""
LAYER = """
    q_{i} = MatMul (hidden{h}, w)
    qb_{i} = Add (q_{i}, gain)
    k_{i} = MatMul (hidden{h}, w)
    kb_{i} = Add (k_{i}, gain)
    v_{i} = MatMul (hidden{h}, w)
    vb_{i} = Add (v_{i}, gain)
    a_{i} = Attention <q_num_heads = 2, kv_num_heads = 2> (qb_{i}, kb_{i}, vb_{i}, mask)
    o_{i} = MatMul (a_{i}, w)
    r_{i} = Add (o_{i}, hidden{h})
    n_{i} = LayerNormalization <axis = -1> (r_{i}, gain)
    f_{i} = MatMul (n_{i}, up)
    g_{i} = Gelu (f_{i})
    d_{i} = MatMul (g_{i}, down)
    hidden_{n} = Add (d_{i}, n_{i})
"""
MODULES = {
    "q": "attention.query", "qb": "attention.query", "k": "attention.key", "kb": "attention.key",
    "v": "attention.value", "vb": "attention.value", "a": "attention", "o": "attention.output",
    "r": "attention", "n": "norm", "f": "up", "g": "act", "d": "down", "hidden": "",
}  # fmt: skip
TARGETS = ("ort-cpu", "tensorrt-rtx")


def graph_bytes() -> bytes:
    """Two layers, with the names that the export gives."""
    layers = "".join(LAYER.format(i=i, h=f"_{i}" if i else "", n=i + 1) for i in range(2))
    model = parser.parse_model(GRAPH.format(weights="", layers=layers).replace("<>", ""))
    for node in model.graph.node[:-1]:
        stem, _, number = node.output[0].rpartition("_")
        layer = int(number) - 1 if stem == "hidden" else int(number)
        path = ".".join(filter(None, ("encoder.layer", str(layer), MODULES[stem])))
        node.name = f"{path}/{node.op_type}"
    for name, shape in (("w", (4, 4)), ("up", (4, 8)), ("down", (8, 4)), ("gain", (4,))):
        array = np.ones(shape, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def edge(layer: int, readers: list[str], share: float | None, **others: Any) -> dict[str, Any]:
    return {
        "tensor": f"value_{layer}", "format": "int8", "reason": None, "amax": 2.0, "scale": 0.016,
        "linears": [f"encoder.layer.{layer}.{name}/MatMul" for name in readers],
        "weight_bits": 8, "estimator": "absmax", "alpha": 1.0, "transform": "gain",
        "shift": "none", "clip_rate": 2.5e-4, "headroom": 1.25, "noise_share": share,
        "outlier": {"value": 20.0, "channel": 3, "token": "[CLS]", "position": 0, "median": 1.5},
        **others,
    }  # fmt: skip


def stage(name: str, before: int, after: int, rewrites: int = 0, **others: Any) -> dict[str, Any]:
    return {
        "name": name, "seconds": 0.0123, "nodes_before": before, "nodes_after": after,
        "rewrites": rewrites, "refusals": [], "rolled_back": None, **others,
    }  # fmt: skip


def make_report() -> dict[str, Any]:
    """The report.json of the bundle."""
    refusal = {"rule": "attention", "node": "encoder.layer.1", "reason": "its scale is no constant"}
    return {
        "schema": 1,
        "model": {"id": "acme/tiny", "revision": None, "digest": "d" * 64, "weights": "pretrained",
                  "task": "embedding", "weight_bytes": 100_000_000},
        "stages": [
            stage("export", 0, 50), stage("clean-up", 50, 50), stage("fuse-gelu", 50, 40, 2),
            stage("insert-qdq(policy=Q)", 40, 60, 8), stage("lower-kv-cache", 60, 60),
            stage("convert-precision(dtype='float16')", 60, 61, 9),
            stage("build tensorrt-rtx", 61, 61), stage("fuse-integer-matmul", 60, 30, 10),
            stage("build ort-cpu", 30, 30),
        ],
        "exported": {"nodes": 50, "modules": {
            "": {"Shape": 3}, "encoder.layer.0.attention": {"MatMul": 6, "Softmax": 1, "Add": 5},
            "encoder.layer.1.attention": {"MatMul": 6, "Softmax": 1, "Add": 5},
        }},
        "fusion": {
            "attention": {"found": 2, "fused": 1, "refusals": [refusal]},
            "gelu": {"found": 2, "fused": 2, "refusals": []},
            "rms_norm": {"found": 0, "fused": 0, "refusals": []},
        },
        "numbers": {"verify": "final", "not_checked": []},
        "quantization": {
            "format": "int8", "weight_only": False, "linears": 12, "int8": 11, "fp8": 0,
            "tables": {"int8": [], "kept_float": []}, "method": "auto", "texts": 448,
            "tokens": 18644, "source": "default corpus", "sqnr_db": 24.0,
            "sqnr_interval": [23.1, 24.9], "cosine_mean": 0.998, "cosine_min": 0.98,
            "cosine_interval": [0.997, 0.999], "held_out_texts": 64, "accuracy": [],
            "corpus": {"shortest": 3, "longest": 242, "median": 18},
            "kept_float": [{"node": "encoder.layer.1.down/MatMul", "reason": "the budget"}],
            "edges": [
                edge(0, ["attention.query", "attention.key", "attention.value"], 0.1),
                edge(0, ["down"], 0.5),
                edge(1, ["attention.query"], 0.01, clip_rate=0.0),
                edge(1, ["down"], None, format="float", reason="the budget", amax=None,
                     clip_rate=None, headroom=None),
            ],
        },
        "shapes": {"profiles": [], "buckets": [], "padding": None},
        "comparison": [],
        "targets": {
            "ort-cpu": {"precision": "int8", "bytes": 60_000_000, "build_seconds": 0.2,
                        "lost": [], "nodes": {"MatMulIntegerToFloat": 12, "Gelu": 2}},
            "tensorrt-rtx": {"precision": "int8", "bytes": 40_000_000, "build_seconds": 1.2,
                             "lost": [], "kernels": {"total": 3, "gemm": 1, "int8_gemm": 1,
                                                     "fused_attention": 1}},
        },
        "verification": {
            "passed": True, "reference": "PyTorch, float32, eager attention",
            "targets": [
                verdict("tensorrt-rtx", "its graph was run with ONNX Runtime on the CPU"),
                verdict("ort-cpu", "engine"),
            ],
        },
        "latency": {"ort-cpu": [
            {"batch": 1, "sequence": 128, "median_ms": 4.2, "runs": 50},
            {"batch": 8, "sequence": 128, "median_ms": 24.1, "runs": 20},
        ]},
        "cache": [],
        "notes": ["calibrated on the texts that ship with fuselage"],
        "environment": {
            "system": "Linux", "python": "3.11.7", "driver": None, "gpus": [], "load_average": 0.5,
            "cpu": {"arch": "x86_64", "model": "Example CPU", "physical_cores": 2,
                    "flags": ["avx2"]},
            "versions": {"numpy": "2.4.6", "onnxruntime": "1.31.1"},
        },
    }  # fmt: skip


def verdict(target: str, subject: str) -> dict[str, Any]:
    return {
        "target": target, "precision": "int8", "subject": subject, "passed": True, "reason": None,
        "max_abs": 0.03, "relative": 0.084, "cosine_mean": 0.99645, "cosine_min": 0.98766,
        "texts": 10,
    }  # fmt: skip


ENGINES: dict[str, dict[str, Any]] = {
    "ort-cpu": {"target": "ort-cpu", "package": "onnxruntime", "package_version": "1.31.1"},
    "tensorrt-rtx": {
        "target": "tensorrt-rtx",
        "kernel_list": [
            {"name": "gemm_1", "kind": "gemm", "dtypes": "Int8|Int8->Half", "nodes": ["a", "b"],
             "profile": 0},
            {"name": "_gemm_mha_v2", "kind": "kgen", "dtypes": "Half->Half", "nodes": [],
             "profile": 0},
            {"name": "shape", "kind": "shape_call", "dtypes": "->", "nodes": [], "profile": 0},
        ],
    },
}  # fmt: skip

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def write_bundle(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes a bundle: ``write_bundle(report, model_id=...)``."""

    def write(report: dict[str, Any] | None = None, model_id: str = "acme/tiny") -> Path:
        path = tmp_path_factory.mktemp("bundles") / "tiny"
        report = report or make_report()
        names = [record["name"] for record in report["stages"]]
        with BundleWriter(path) as writer:
            writer.add("report.json", json.dumps(report).encode())
            writer.path("graph/model.onnx").write_bytes(graph_bytes())
            for target, facts in ENGINES.items():
                folder = writer.folder(target)
                (folder / "engine.json").write_text(json.dumps(facts))
            writer.path("ort-cpu/model.onnx").write_bytes(graph_bytes())
            writer.commit(
                Manifest(
                    model=ModelId(id=model_id, revision=None, digest="d" * 64),
                    weights="pretrained",
                    task="embedding",
                    recipe={"precision": "int8", "targets": list(TARGETS), "verify": "final"},
                    passes={
                        "ort-cpu": (*names[:4], "fuse-integer-matmul"),
                        "tensorrt-rtx": tuple(names[:6]),
                    },
                    targets={
                        target: TargetEntry(precision="int8", folder=target, versions={},
                                            compute_capabilities=(), profile={})
                        for target in TARGETS
                    },
                    verification={"passed": True},
                    calibration="c" * 64,
                )
            )  # fmt: skip
        return path

    return write


@pytest.fixture(scope="session")
def bundle(write_bundle: Write) -> Path:
    return write_bundle()


def environment() -> dict[str, Any]:
    facts: dict[str, Any] = make_report()["environment"]
    return {**facts, "threads": 2, "date": "2026-11-20T19:00:00+00:00"}


def documents() -> dict[str, dict[str, Any]]:
    """One of each kind."""
    metrics = {
        "relative": 0.12,
        "max_abs": 0.03,
        "p999": 0.02,
        "cosine_mean": 0.9975,
        "cosine_min": 0.98,
        "snr_db": 18.4,
        "kl": None,
        "top_1": None,
        "top_5": None,
    }
    candidate = "bundle:tiny#ort-cpu"
    figures = {
        "calls": 100,
        "percentiles_ms": {"p50": 4.0, "p90": 5.0, "p95": 5.5, "p99": 6.0},
        "sequences_per_second": 240.0,
        "tokens_per_second": 30_000.0,
        "cpu_seconds_per_1000": 8.0,
        "cdf_ms": [3.5 + 0.025 * index for index in range(100)],
    }
    slower = {
        **figures,
        "percentiles_ms": {"p50": 8.0, "p90": 9.0, "p95": 9.5, "p99": 10.0},
        "sequences_per_second": 120.0,
        "cdf_ms": [7 + 0.03 * i for i in range(100)],
    }
    return {
        "comparison": {
            "schema": 1, "kind": "comparison", "passed": True, "environment": environment(),
            "reference": {"name": "torch:tiny", "precision": "fp32"}, "notes": [],
            "cases": [{"name": "one token"}, {"name": "longest"}],
            "noise_floor": {"embedding": {**metrics, "relative": 1e-7}},
            "candidates": [{
                "name": candidate, "precision": "int8", "passed": True, "failures": [],
                "divergence": None, "divergence_facts": None, "notes": [],
                "outputs": [{
                    "name": "embedding", "metrics": metrics, "bounds": {"cosine_min": 0.9},
                    "numbers": 1000, "worst_rows": [],
                    "histogram": {"edges": [-6.0, -5.0, -4.0, -3.0, -2.0],
                                  "counts": [10, 100, 700, 180], "exact": 10},
                    "cases": [{"case": "one token", "fault": None, "metrics": metrics},
                              {"case": "longest", "fault": None, "metrics": metrics}],
                }],
                "invariance": {"rows": 4, "in_batch": {"embedding": metrics}, "padded": {}},
                "determinism": {"runs": 3, "identical": True, "max_abs": 0.0},
            }],
        },
        "evaluation": {
            "schema": 1, "kind": "evaluation", "reference": "bundle:tiny#float", "passed": True,
            "examples": 1500, "source": "pairs.tsv", "digest": "e" * 64, "notes": [],
            "left_out": ["tensorrt-rtx: no GPU"], "environment": environment(),
            "candidates": [{
                "name": candidate, "precision": "int8", "notes": [],
                "metrics": [{"metric": "spearman", "title": "Spearman's rank correlation",
                             "lower_is_better": False, "reference": 86.72, "candidate": 86.67,
                             "drop": 0.05, "interval": [-0.01, 0.12], "max_drop": 0.5,
                             "passed": True}],
            }],
        },
        "benchmark": {
            "schema": 1, "kind": "benchmark", "environment": environment(), "mode": "engine",
            "load": "one call after another", "texts": "", "reference": "tiny#ort-cpu",
            "concluded": True, "energy": "RAPL, all CPU packages", "notes": [],
            "skipped": {"torch-compile": "no compiler"},
            "memory": {"tiny#ort-cpu": {"peak": 200_000_000}, "torch-eager": {"blocker": "killed"}},
            "works": [{
                "name": "1x128", "sequences": 1, "tokens": 128.0, "fill": 1.0,
                "candidates": {"tiny#ort-cpu": figures, "torch-eager": slower},
                "verdicts": {"torch-eager": {"outcome": "slower", "ratio": 2.0, "low": 1.9,
                                             "high": 2.1, "confidence": 0.99, "rounds": 30,
                                             "block": 1, "floor": 0.02, "reason": ""}},
            }],
        },
        "cost-model": cost_model(),
    }  # fmt: skip


def cost_model() -> dict[str, Any]:
    def node(name: str, op: str, flops: int, said: float, took: float | None) -> dict[str, Any]:
        return {
            "name": name, "op": op, "class": op, "flops": {"text": "b", "value": flops},
            "predicted_ms": said, "measured_ms": took, "floor_ms": 0.5, "bound": "compute",
            "kernel": op,
        }  # fmt: skip

    return {
        "schema": 1, "kind": "cost-model", "environment": environment(), "subject": "tiny",
        "target": "ort-cpu", "precision": "int8", "shape": {"text": "8x128", "sizes": {}},
        "totals": {"nodes": 2, "flops": {"text": "b", "value": 2_000_000_000},
                   "bytes": {"text": "b", "value": 10_000_000}, "floor_ms": 8.0,
                   "predicted_ms": 10.5, "measured_ms": 10.0},
        "peaks": {"source": "measured", "flops": 2.5e11, "integer_flops": 7.5e11,
                  "copies": [{"bytes": 262144, "rate": 1e11}, {"bytes": 4194304, "rate": 5e10}]},
        "fit": None,
        "errors": {"shape": "8x128", "predicted_ms": 10.5, "measured_ms": 10.0, "total": 0.05,
                   "kernels": 0.01, "node_median": 0.08, "spearman": 0.98},
        "classes": [
            {"class": "MatMul [4, 8]", "nodes": 8, "flops": 1.9e9, "bytes": 8e6, "floor_ms": 7.6,
             "ms": 8.0, "share": 0.8, "achieved": 0.95, "bound": "compute"},
            {"class": "Add", "nodes": 4, "flops": 1e8, "bytes": 2e6, "floor_ms": 0.1, "ms": 0.9,
             "share": 0.2, "achieved": 0.05, "bound": "memory"},
        ],
        "nodes": [node("a", "MatMul", 1000, 8.1, 8.0), node("b", "Add", 10, 2.4, 2.0)],
        "kernels": [], "absent": [], "formulas": {}, "unknown": ["Frob"], "passes": [], "notes": [],
    }  # fmt: skip


@pytest.fixture(scope="session")
def document_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("documents")
    files = {}
    for kind, content in documents().items():
        files[kind] = folder / f"{kind}.json"
        files[kind].write_text(json.dumps(content))
    return files
