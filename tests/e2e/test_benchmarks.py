"""The benchmark scripts run and print their figures; no figure is judged here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from fuselage.engines.bundle import Bundle

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name: str, *arguments: object) -> str:
    command = [sys.executable, BENCHMARKS / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_latency_compares_equal_answers(minilm: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    out = script(
        "latency.py", "--bundle", minilm.root, "--shape", "2x9", "--seconds", 0.2, "--json", file
    )
    row = json.loads(file.read_text())["rows"][0]
    assert row["shape"] == [2, 9]
    assert row["rounds"] >= 15
    assert row["max_abs_difference"] < 2e-6
    assert "load average" in out


def test_cold_start_prints_a_median(minilm: Bundle) -> None:
    out = script("cold_start.py", "--bundle", minilm.root, "--runs", 1)
    assert out.startswith("cold start: median ")


def test_spearman_orders_pairs(minilm: Bundle, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text(
        "5\tA cat sleeps.\tA cat is sleeping.\n"
        "2\tA cat sleeps.\tA dog sleeps.\n"
        "0\tA cat sleeps.\tThe budget was cut.\n",
        encoding="utf-8",
    )
    assert script("spearman.py", pairs, minilm.root, "--target", "ort-cpu") == (
        f"{minilm.root}: 100.00 (+0.00)\n"
    )


def test_ablation_times_every_variant(minilm: Bundle) -> None:
    out = script("ablation.py", "--bundle", minilm.root, "--shape", "2x9", "--seconds", 0.2)
    for name in ("engine", "without fold-residual-bias", "with merge-qkv", "4-D attention"):
        assert name in out


def test_a_file_is_streamed_killed_and_resumed() -> None:
    out = script("stream_file.py", "--lines", 5000)
    assert "npy: killed: exit 1" in out
    assert "equal: True" in out


def test_pipelines_equal_those_of_others() -> None:
    tasks = ("token-classification", "rerank")
    out = script(
        "pipeline_equality.py", "--inputs", 24, "--family", "xlm-roberta", "--task", *tasks
    )
    assert out.endswith("\n0 answers differ\n")
    assert len(re.findall(r"^xlm-roberta +\S+ +.* 24 +24 ", out, re.MULTILINE)) == 7
