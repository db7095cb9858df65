"""Latency of a bundle's ort-cpu engine against ONNX Runtime on the plain exporter output.

    python benchmarks/latency.py [--bundle DIR] [--shape 1x128 --shape 8x128] [--json FILE]

Both sides run in this process: the same ONNX Runtime, two threads, no spinning (a spinning pool of
one session would steal the core of the other), every optimisation on for the baseline. Rounds are
interleaved in random order; the figures are medians, and the ratio is the median of the ratios
within a round. The baseline is what a user gets without fuselage: ``torch.onnx.export`` with its
default opset and sdpa attention, pooling and normalisation included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import fuselage

THREADS = 2


def plain_export(folder: Path) -> Path:
    """MiniLM as the exporter writes it: default opset, sdpa."""
    import torch

    from fuselage.compiler.exporting.quiet import quiet
    from fuselage.compiler.exporting.tasks import task_module
    from fuselage.compiler.models.checkpoint import load_checkpoint
    from fuselage.compiler.models.source import resolve_model

    checkpoint = load_checkpoint(resolve_model("minilm"), "embedding")
    checkpoint.model.set_attn_implementation("sdpa")  # what transformers loads by default
    module = task_module(checkpoint.model, "embedding", checkpoint.modules).eval()
    names = list(checkpoint.spec.inputs)
    ids = torch.randint(1000, 2000, (2, 16))
    example = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    path = folder / "plain.onnx"
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            kwargs={name: example[name] for name in names},
            input_names=names,
            output_names=["sentence_embedding"],
            dynamo=True,
            dynamic_shapes={name: {0: batch, 1: sequence} for name in names},
            verbose=False,
        )
        assert program is not None
        program.save(path)
    return path


def open_plain(path: Path) -> Any:
    """The baseline session: everything ONNX Runtime can do by itself."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(batch: int, sequence: int) -> dict[str, np.ndarray]:
    """Token ids with right padding: rows are 100, 90, 80, ... percent real, at least half."""
    rng = np.random.default_rng(0)
    shares = np.maximum(1.0 - 0.1 * np.arange(batch), 0.5)
    lengths = np.maximum(1, (shares * sequence).astype(int))
    mask = (np.arange(sequence)[None, :] < lengths[:, None]).astype(np.int64)
    ids = rng.integers(1000, 20000, (batch, sequence)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def measure(plain: Any, engine: Any, shape: tuple[int, int], seconds: float) -> dict[str, Any]:
    """Interleave both until the time is up; at least 15 rounds."""
    inputs = feeds(*shape)
    runs = {"plain": lambda: plain.run(None, inputs)[0], "fuselage": lambda: engine.run(inputs)}
    expected, got = runs["plain"](), runs["fuselage"]()["sentence_embedding"]
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["plain"]) < 15:
        for name in random.sample(sorted(runs), len(runs)):
            runs[name]()  # leaves the caches as this side wants them
            start = time.perf_counter()
            runs[name]()
            times[name].append(time.perf_counter() - start)
    ratios = np.array(times["fuselage"]) / np.array(times["plain"])
    return {
        "shape": list(shape),
        "rounds": len(ratios),
        "plain_ms": round(float(np.median(times["plain"])) * 1e3, 3),
        "fuselage_ms": round(float(np.median(times["fuselage"])) * 1e3, 3),
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_quartiles": [round(float(q), 3) for q in np.quantile(ratios, (0.25, 0.75))],
        "max_abs_difference": float(np.abs(expected - got).max()),
    }


def main() -> None:
    """Print a table and, on request, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("build/minilm"))
    parser.add_argument("--shape", action="append", help="BATCHxSEQUENCE, repeatable")
    parser.add_argument("--seconds", type=float, default=12.0, help="for each shape")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    shapes = [tuple(map(int, text.split("x"))) for text in arguments.shape or ("1x128", "8x128")]
    if not arguments.bundle.exists():
        fuselage.build("minilm", out=arguments.bundle)
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        plain = open_plain(plain_export(Path(folder)))
        with fuselage.load(arguments.bundle, target="ort-cpu", threads=THREADS) as engine:
            load = os.getloadavg()[0]
            rows = [measure(plain, engine, (s[0], s[1]), arguments.seconds) for s in shapes]
    print(f"{arguments.bundle}, {THREADS} threads, load average {load:.2f} at the start")
    print(f"{'shape':>8} {'plain ms':>9} {'fuselage ms':>12} {'ratio':>6}  quartiles      rounds")
    for row in rows:
        shape = "x".join(map(str, row["shape"]))
        low, high = row["ratio_quartiles"]
        print(
            f"{shape:>8} {row['plain_ms']:9.2f} {row['fuselage_ms']:12.2f} {row['ratio']:6.3f}  "
            f"{low:.3f}-{high:.3f}  {row['rounds']:6d}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"load_average": load, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
