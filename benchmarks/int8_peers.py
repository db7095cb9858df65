"""INT8 of other tools and of fuselage from the same ONNX file and the same texts.

    python benchmarks/int8_peers.py --texts FILE --pairs FILE.tsv [--count 128] [--only NAME ...]
    python benchmarks/int8_peers.py --latency

The model is all-MiniLM-L6-v2 as `torch.onnx.export` writes it, pooling included. Each peer works in
an environment of its own (`--envs`, made at the first run) and in a process of its own; what it
wrote is judged by one judge with one ONNX Runtime, a process for each file. ``--pairs`` has one
pair a line: score, text, text, separated by tabs. The second command times the files of the first
(`--work`) next to fuselage's engines; it refuses to when other work keeps the machine busy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from int8.environments import ENVIRONMENTS, ask
from int8.judge import facts, hidden_state
from int8.methods import METHODS, Method
from int8.race import PLAIN, QUIET, Contender, contender, engine, heat, race
from int8.tables import HEADING, latency_table, replace_section, section
from latency import feeds, plain_export
from spearman import read_pairs

_SHAPES = ((1, 128), (8, 128), (32, 128))
_FLOAT = "fuselage fp32"


def tokenized(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The token rows of worker.py: ``ids`` of all texts in a row, and ``lengths``."""
    from int8.own import encoder

    rows = [encoding.ids for encoding in encoder().encode(list(texts)).encodings]
    return {"ids": np.concatenate(rows).astype(np.int64), "lengths": np.array([*map(len, rows)])}


def write_inputs(work: Path, texts: Path, pairs: Path, count: int) -> int:
    """The plain model, the texts to calibrate with and the pairs to judge with; how many texts."""
    from fuselage.calibration.text.data import CalibrationSet

    drawn = CalibrationSet.from_files([texts], limit=count).texts
    np.savez(work / "texts.npz", **tokenized([str(text) for text in drawn]))
    scores, left, right = read_pairs(pairs)
    index = {text: number for number, text in enumerate(dict.fromkeys((*left, *right)))}
    places = {
        side: np.array([index[text] for text in texts])
        for side, texts in (("left", left), ("right", right))
    }
    np.savez(work / "pairs.npz", scores=scores, **places, **tokenized(list(index)))
    (work / "reference.npz").unlink(missing_ok=True)
    if not (work / "plain.onnx").exists():
        plain_export(work)
    return len(drawn)


def pooling_nodes(path: Path) -> list[str]:
    """Names of the nodes behind the last norm."""
    graph = ir.load(path).graph
    reached = {hidden_state(graph)}
    names = []
    for node in graph:
        if reached.intersection(node.inputs):
            reached.update(node.outputs)
            names.append(str(node.name))
    return names


def judged(work: Path, model: Path) -> dict[str, Any]:
    """The judge's figures of one file."""
    request = {
        "model": str(model),
        "pairs": str(work / "pairs.npz"),
        "reference": str(work / "reference.npz"),
    }
    return ask(sys.executable, "int8.judge", request)


def row_of(method: Method, work: Path, envs: Path) -> dict[str, Any]:
    """Quantize with one method, in the first form of the texts that it takes, and judge."""
    out = work / method.folder / "model.onnx"
    out.unlink(missing_ok=True)
    row: dict[str, Any] = {"name": method.name, "kind": method.kind, "failures": []}
    for feed in method.feeds:
        answer = _quantized(method, feed, work, envs, out)
        if "error" not in answer and out.exists():
            row |= {**answer, "feed": feed, **judged(work, out)}
            return row | (_own_facts(out.parent) if method.kind == "own" else {})
        error = answer.get("error", "it ended without a file")
        row["failures"].append({"feed": feed, "error": error})
    return row


def _quantized(method: Method, feed: str, work: Path, envs: Path, out: Path) -> dict[str, Any]:
    environment = ENVIRONMENTS.get(method.environment)
    request = {
        "tool": method.tool,
        "options": dict(method.options),
        "source": str(work / "plain.onnx"),
        "out": str(out),
        "texts": str(work / "texts.npz"),
        "feed": feed,
        "limit": method.limit,
        "packages": environment.shown if environment else (),
    }
    if environment is None:
        return ask(sys.executable, "int8.own", request)
    return ask(environment.python(envs / method.environment), "int8.worker", request)


def _own_facts(folder: Path) -> dict[str, Any]:
    """Q/DQ before they are fused into kernels, and the bytes of the engine."""
    size = sum(file.stat().st_size for file in (folder / "engine").iterdir()) / 1e6
    return {**facts(folder / "canonical.onnx"), "megabytes": size}


def rows(methods: Sequence[Method], work: Path, envs: Path) -> Iterator[dict[str, Any]]:
    """One row a method, printed as it is done."""
    pooling = pooling_nodes(work / "plain.onnx")
    for method in methods:
        if "default operators" in method.name:
            method = replace(method, options={**method.options, "exclude": pooling})
        row = row_of(method, work, envs)
        print(json.dumps(row), flush=True)
        yield row


def contenders(found: Sequence[Mapping[str, Any]], work: Path, envs: Path) -> dict[str, Contender]:
    """Plain float, dynamic INT8, the fastest and the least noisy static peer, and fuselage's.

    ONNX Runtime runs each file twice: as it is, and without SkipLayerNormFusion, which fuselage
    leaves out as well.
    """
    valid = [row for row in found if "spearman" in row]
    static = [row for row in valid if row["kind"] == "static"]
    paths = {row["name"]: _file(row["name"], work) for row in valid if row["kind"] == "dynamic"}
    if static:
        best = max(static, key=lambda row: row["sqnr_db"])["name"]
        fastest = _fastest([row["name"] for row in static], work)
        paths |= {name: _file(name, work) for name in (best, fastest)}
    paths = {PLAIN: work / "plain.onnx", **paths}
    racing = {}
    for name, path in paths.items():
        racing[name] = contender(path, skip_norm_fusion=True)
        racing[f"{name}, no SkipLayerNorm"] = contender(path, skip_norm_fusion=False)
    floating = Method(name=_FLOAT, environment="", tool=_FLOAT, kind="own")
    _quantized(floating, "by length", work, envs, work / floating.folder / "model.onnx")
    for name in (_FLOAT, "fuselage"):
        racing[name] = engine(_file(name, work).with_name("engine"))
    return racing


def _file(name: str, work: Path) -> Path:
    return work / Method(name=name, environment="", tool="").folder / "model.onnx"


def _fastest(names: Sequence[str], work: Path) -> str:
    """By one short heat at 8x128."""
    racing = {name: contender(_file(name, work), skip_norm_fusion=False) for name in names}
    racing[PLAIN] = contender(work / "plain.onnx", skip_norm_fusion=True)
    engines = heat(racing, feeds(8, 128), 0, rounds=5)["engines"]
    return min(names, key=lambda name: engines[name]["ratio"])


def machine() -> str:
    """Kind of CPU, without saying which machine."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    kernels = next((flag for flag in ("avx512_vnni", "avx_vnni", "avx2") if flag in flags), "none")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} CPUs, {platform.machine()}, {kernels}, no GPU used"


def measure_accuracy(arguments: argparse.Namespace, record: dict[str, Any]) -> None:
    """Quantize and judge, and put rows and header into the record."""
    load = os.getloadavg()[0]
    count = write_inputs(arguments.work, arguments.texts, arguments.pairs, arguments.count)
    plain = judged(arguments.work, arguments.work / "plain.onnx")
    if "spearman" not in plain:
        raise SystemExit(f"the plain model cannot be judged: {plain}")
    methods = [m for m in METHODS if not arguments.only or m.name in arguments.only]
    done = {row["name"]: row for row in rows(methods, arguments.work, arguments.envs)}
    kept = {row["name"]: row for row in record.get("rows", ()) if arguments.only}
    import onnxruntime

    command = f"--texts {arguments.texts.name} --pairs {arguments.pairs.name} --count {count}"
    record["header"] = {
        "command": f"benchmarks/int8_peers.py {command}",
        "date": str(datetime.now(UTC).date()),
        "machine": machine(),
        "load_average": load,
        "texts": count,
        "pairs": len(read_pairs(arguments.pairs)[0]),
        "spearman": plain["spearman"],
        "judge": onnxruntime.__version__,
    }
    every = kept | done
    record["rows"] = [every[m.name] for m in METHODS if m.name in every]


def measure_latency(arguments: argparse.Namespace, record: dict[str, Any]) -> None:
    """Race what the work folder holds, and put the result into the record."""
    load = os.getloadavg()[0]
    busy = load > QUIET
    if busy and not arguments.busy:
        raise SystemExit(
            f"load average {load:.2f}: expected at most {QUIET}; wait until other work has ended, "
            "or give --busy to have the figures marked"
        )
    if "rows" not in record:
        raise SystemExit(f"{arguments.json}: no rows there yet; run with --texts and --pairs first")
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shape]
    racing = contenders(record["rows"], arguments.work, arguments.envs)
    result = race(racing, [(s[0], s[1]) for s in shapes], arguments.seconds)
    today = str(datetime.now(UTC).date())
    record["latency"] = {**result, "load_average": load, "busy": busy, "date": today}
    print(latency_table(record["latency"]))


def main() -> None:
    """Measure what was asked for and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, help="one text a line, to calibrate with")
    parser.add_argument("--pairs", type=Path, help="score, text, text: to judge with")
    parser.add_argument("--count", type=int, default=128, help="texts to calibrate with")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--shape", nargs="+", default=[f"{b}x{s}" for b, s in _SHAPES])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each shape")
    parser.add_argument("--busy", action="store_true", help="race on a busy machine, and say so")
    parser.add_argument("--envs", type=Path, default=Path("build/int8-envs"))
    parser.add_argument("--work", type=Path, default=Path("build/int8-peers"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="read, added to, written")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="a page with the section")
    arguments = parser.parse_args()
    if not arguments.latency and not (arguments.texts and arguments.pairs):
        parser.error("expected --texts and --pairs, or --latency")
    arguments.work = arguments.work.absolute()
    arguments.work.mkdir(parents=True, exist_ok=True)
    store = arguments.json or arguments.work / "record.json"
    record: dict[str, Any] = {}
    if store.exists():
        record = json.loads(store.read_text(encoding="utf-8"))
    (measure_latency if arguments.latency else measure_accuracy)(arguments, record)
    store.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(section(record))
    if arguments.markdown is not None:
        page = arguments.markdown.read_text(encoding="utf-8") if arguments.markdown.exists() else ""
        arguments.markdown.write_text(replace_section(page, HEADING, section(record)), "utf-8")


if __name__ == "__main__":
    main()
