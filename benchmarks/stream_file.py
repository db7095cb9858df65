"""A large file through `fuselage run`: memory over time, an end by SIGKILL half-way, a resumption.

    python benchmarks/stream_file.py [--lines 200000] [--bundle DIR] [--seed 0]

Texts have lognormal lengths (median 12 words, sigma 0.8, 2 to 90). Without a bundle a random BERT
of two layers and 64 columns is built, because what is measured is the stream and not the model. The
file is answered once without interruption, while the resident memory of the process is sampled;
then anew with a SIGKILL half-way, and the same command once more. The two results are compared byte
by byte.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

import fuselage

Sample = tuple[int, int]
"""Rows in the journal, and resident bytes."""

_TINY = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 1200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
}
_WORDS = ("the", "a", "of", "river", "mill", "stone", "bread", "night", "seven", "green", "under")


def write_lines(path: Path, lines: int, seed: int) -> None:
    """Texts that all differ, by a number at their end."""
    random = np.random.default_rng(seed)
    sizes = np.clip(np.round(random.lognormal(np.log(12), 0.8, lines)), 2, 90).astype(int)
    with path.open("w", encoding="utf-8") as file:
        for number, size in enumerate(sizes):
            words = " ".join(_WORDS[at] for at in random.integers(0, len(_WORDS), size - 1))
            file.write(json.dumps({"id": number, "text": f"{words} {number}"}) + "\n")


def tiny_bundle(folder: Path) -> Path:
    """A random model with mean pooling."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(_TINY), encoding="utf-8")
    fuselage.build(
        str(model),
        out=folder / "bundle",
        task="embedding",
        weights="random",
        targets=("ort-cpu",),
        cache=False,
    )
    return folder / "bundle"


def run(command: list[str], out: Path, kill_at: int | None = None) -> tuple[int, list[Sample]]:
    """Run until the end, or until SIGKILL when that many rows are done; ten samples a second."""
    process = subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL)
    samples: list[Sample] = []
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            workers = [*watched.children(), watched]
            rows = rows_done(out)
            samples.append((rows, max(worker.memory_info().rss for worker in workers)))
            if kill_at is not None and rows >= kill_at:
                workers[0].send_signal(signal.SIGKILL)
                break
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.1)
    return process.wait(), samples


def rows_done(out: Path) -> int:
    """What the journal says; 0 when there is none."""
    try:
        return int(json.loads(out.with_name(f".{out.name}.journal").read_text())["rows"])
    except FileNotFoundError:
        return 0


def report_memory(kind: str, samples: list[Sample], lines: int) -> float:
    """Print memory over the rows; its growth behind the first tenth of them, the end left out."""
    tenths: list[list[int]] = [[] for _ in range(11)]
    for rows, size in samples:
        if rows:
            tenths[rows * 10 // lines].append(size >> 20)
    shown = [max(part) if part else None for part in tenths]
    later = [size for part in tenths[1:10] for size in part]
    grown = max(later, default=0) / max(tenths[0], default=1) if tenths[0] else 0.0
    peak = max(size for _, size in samples) >> 20
    print(
        f"{kind}: resident MiB by tenth of the rows: {shown[:10]}, growth {grown:.3f}x (limit "
        f"1.1), peak with the completion of the file {peak}"
    )
    return grown


def main() -> int:
    """Print the figures; 1 when memory grew or the files differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--bundle", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--formats", nargs="+", default=["npy"], choices=["npy", "jsonl", "parquet"]
    )
    arguments = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = folder / "texts.jsonl"
        write_lines(texts, arguments.lines, arguments.seed)
        print(f"{arguments.lines:,} lines, {texts.stat().st_size / 1e6:.1f} MB")
        bundle = arguments.bundle or tiny_bundle(folder)
        for kind in arguments.formats:
            good &= measured(folder, texts, bundle, kind, arguments.lines)
    return 0 if good else 1


def measured(folder: Path, texts: Path, bundle: Path, kind: str, lines: int) -> bool:
    """Both runs in one format, and what is to say about them."""
    whole, killed = folder / f"whole.{kind}", folder / f"killed.{kind}"
    command = [sys.executable, "-m", "fuselage", "run", str(bundle), "--target", "ort-cpu"]
    command += ["--text-file", str(texts), "--out"]
    began = time.perf_counter()
    code, samples = run(command, whole)
    seconds = time.perf_counter() - began
    print(f"{kind}: whole run: exit {code}, {seconds:.1f} s, {lines / seconds:,.0f} texts a second")
    grown = report_memory(kind, samples, lines)
    code, _ = run(command, killed, kill_at=lines // 2)
    done = rows_done(killed)
    print(f"{kind}: killed: exit {code}, {done:,} rows in the journal")
    is_half = code != 0 and lines // 2 <= done < lines and not killed.exists()
    began = time.perf_counter()
    code, _ = run(command, killed)
    is_equal = whole.read_bytes() == killed.read_bytes()
    print(f"{kind}: resumed: exit {code}, {time.perf_counter() - began:.1f} s, equal: {is_equal}")
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    print(f"{kind}: left over: {left}")
    return code == 0 and is_half and is_equal and not left and grown < 1.1


if __name__ == "__main__":
    raise SystemExit(main())
