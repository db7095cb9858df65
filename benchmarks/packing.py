"""Packed rows against padded batches: CPU time a text, computed tokens a token, and equality.

    python benchmarks/packing.py [--padded BUNDLE --packed BUNDLE] [--texts 320] [--threads 0]

Texts are lists of token ids with log-normal lengths of 5 to 256 tokens. Online, windows of 32 texts
arrive and each is answered at once; offline, all texts are there. Every side is the same model in
the same precision. Padded batches have the threads that fuselage.load gives, packed rows one, which
is best for small calls, as replicas use the other cores; give both the same to compare at equal
threads. A window is given as one padded batch, and packing and unpacking it count. Sides take
turns; the median of the rounds is shown.

Exits with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fuselage
from fuselage.engines.base import Engine
from fuselage.engines.text.packed_engine import PackedEngine
from fuselage.graph.tensors import Array

WINDOW, LONGEST = 32, 256
TOLERANCE, MOST_PADDED = 2e-5, 1.03
ONLINE, OFFLINE = 4.0, 8.0
DISTRIBUTIONS = ((32, 0.8), (96, 0.6))


@dataclass(frozen=True)
class Side:
    """One way to answer all texts.

    Attributes:
        name: for the table.
        batches: the feeds of each call.
        engine: answers them.
    """

    name: str
    batches: list[dict[str, Array]]
    engine: Engine

    def run(self) -> float:
        """CPU seconds of all calls."""
        start = time.process_time()
        for feeds in self.batches:
            self.engine.run(feeds)
        return time.process_time() - start


def drawn(median: float, sigma: float, count: int) -> list[Array]:
    """Texts as token ids, the same for every run."""
    random = np.random.default_rng(0)
    lengths = np.clip(np.rint(random.lognormal(np.log(median), sigma, count)), 5, LONGEST)
    return [random.integers(1000, 20000, int(length)) for length in lengths]


def padded(engine: Engine, texts: list[Array], width: int) -> dict[str, Array]:
    """One batch [texts, width]."""
    ids = np.array([np.pad(text, (0, width - text.size)) for text in texts])
    mask = np.array([[1] * text.size + [0] * (width - text.size) for text in texts])
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {spec.name: known[spec.name].astype(spec.dtype) for spec in engine.inputs}


def windows(
    engine: Engine, texts: list[Array], size: int, width: int = 0
) -> list[dict[str, Array]]:
    """Batches in the order of arrival, padded to their longest text or to `width`."""
    parts = [texts[start : start + size] for start in range(0, len(texts), size)]
    return [padded(engine, part, width or max(text.size for text in part)) for part in parts]


def interleaved(sides: list[Side], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each side."""
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            seconds[side.name].append(side.run())
    return {name: statistics.median(own) for name, own in seconds.items()}


def computed(engine: PackedEngine, batches: list[dict[str, Array]]) -> float:
    """Tokens that are computed for each token of a text."""
    lengths = [feeds["attention_mask"].sum(1) for feeds in batches]
    tokens = sum(call.tokens for own in lengths for call in engine.calls(own))
    return float(tokens / sum(own.sum() for own in lengths))


def largest_difference(alone: Engine, packed: Engine, texts: list[Array]) -> float:
    """Between texts answered one by one and the same in packed rows."""
    (name,) = [spec.name for spec in alone.outputs][:1]
    own = [alone.run(padded(alone, [text], text.size))[name][0] for text in texts]
    together = packed.run(padded(packed, texts, max(text.size for text in texts)))[name]
    return float(np.abs(np.array(own) - together).max())


def judge(
    title: str, plain: Engine, packed: PackedEngine, texts: list[Array], rounds: int
) -> list[str]:
    """Measure one distribution, print its table, and return the targets that are missed."""
    arrival = windows(plain, texts, WINDOW)
    online = windows(packed, texts, WINDOW)
    offline = windows(packed, texts, len(texts))
    sides = [
        Side("arrival order, padded to the longest of 32", arrival, plain),
        Side("padded to 256, batches of 32", windows(plain, texts, WINDOW, LONGEST), plain),
        Side("one text a call", windows(plain, texts, 1), plain),
        Side("packed, window of 32", online, packed),
        Side("packed, all texts", offline, packed),
    ]
    for side in sides:
        side.engine.run(side.batches[0])
    seconds = interleaved(sides, rounds)
    names = [side.name for side in sides]
    tokens = sum(text.size for text in texts)
    print(f"\n{title}: {len(texts)} texts, {tokens / len(texts):.1f} tokens a text")
    print(f"{'':44}{'CPU ms/text':>12}{'vs arrival':>12}{'vs pad 256':>12}")
    for name in names:
        own = seconds[name]
        against = [f"{seconds[other] / own:.2f}" for other in names[:2]]
        print(f"{name:44}{own / len(texts) * 1e3:12.2f}{against[0]:>12}{against[1]:>12}")
    found: Mapping[str, tuple[float, Callable[[float], bool], str]] = {
        "online against arrival order": (
            seconds[names[0]] / seconds[names[3]], lambda x: x >= ONLINE, f">= {ONLINE}"),
        "offline against padding to 256": (
            seconds[names[1]] / seconds[names[4]], lambda x: x >= OFFLINE, f">= {OFFLINE}"),
        "computed tokens a token, online": (
            computed(packed, online), lambda x: x <= MOST_PADDED, f"<= {MOST_PADDED}"),
        "computed tokens a token, offline": (
            computed(packed, offline), lambda x: x <= MOST_PADDED, f"<= {MOST_PADDED}"),
        "largest difference to one by one": (
            largest_difference(plain, packed, texts), lambda x: x <= TOLERANCE, f"<= {TOLERANCE}"),
    }  # fmt: skip
    for name, (value, is_met, wanted) in found.items():
        print(f"  {name}: {value:.4g} ({wanted}: {'met' if is_met(value) else 'MISSED'})")
    return [f"{title}: {name}" for name, (value, is_met, _) in found.items() if not is_met(value)]


def main() -> int:
    """Measure both distributions."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--padded", type=Path, help="bundle; built when missing")
    parser.add_argument("--packed", type=Path, help="bundle of the same model, layout packed")
    parser.add_argument("--texts", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of the padded side; 0: all cores")
    parser.add_argument("--packed-threads", type=int, default=1, help="of the packed side")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for layout, path in (("padded", asked.padded), ("packed", asked.packed)):
            out = path or Path(folder) / layout
            if path is None:
                fuselage.build(
                    "minilm", out=out, precision="fp32", targets=("ort-cpu",), layout=layout
                )
            paths.append(out)
        with (
            fuselage.load(paths[0], target="ort-cpu", threads=asked.threads) as plain,
            fuselage.load(paths[1], target="ort-cpu", threads=asked.packed_threads) as packed,
        ):
            assert isinstance(packed, PackedEngine)
            print(
                f"threads: padded {asked.threads or 'all'}, packed {asked.packed_threads}; "
                f"{os.cpu_count()} CPUs, load "
                f"{os.getloadavg()[0]:.1f}, median of {asked.rounds} rounds"
            )
            missed = [
                line
                for median, sigma in DISTRIBUTIONS
                for line in judge(
                    f"log-normal, median {median}, sigma {sigma}",
                    plain,
                    packed,
                    drawn(median, sigma, asked.texts),
                    asked.rounds,
                )
            ]
            print("\n".join(["", *packed.notes]))
    print("\n".join(["", *(f"missed: {line}" for line in missed)]) or "all targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
