"""Spearman correlation of an embedding bundle with human similarity scores.

    python benchmarks/spearman.py FILE.tsv BUNDLE [BUNDLE ...] [--target ort-cpu]

FILE has one pair a line: score, text, text, separated by tabs (STS-B's form). Printed are
Spearman's rank correlation x100 of the cosine similarities with the scores, and the difference to
the first bundle. STS-B is not part of this project; its licence does not allow that.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import fuselage


def read_pairs(path: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """Scores and the two texts of every line."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
    for number, row in enumerate(rows, start=1):
        if len(row) != 3:
            raise SystemExit(f"{path}:{number}: expected score, text, text; got {len(row)} fields")
    return np.array([float(r[0]) for r in rows]), [r[1] for r in rows], [r[2] for r in rows]


def correlation(bundle: Path, target: str | None, pairs: Path) -> float:
    """Spearman x100 of one bundle."""
    scores, left, right = read_pairs(pairs)
    with fuselage.pipeline(bundle, target=target) as embed:
        a, b = embed(left), embed(right)
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return 100 * float(spearmanr(cosine, scores).statistic)


def main() -> None:
    """Print one line a bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--target")
    arguments = parser.parse_args()
    first = None
    for bundle in arguments.bundles:
        value = correlation(bundle, arguments.target, arguments.pairs)
        first = value if first is None else first
        print(f"{bundle}: {value:.2f} ({value - first:+.2f})")


if __name__ == "__main__":
    main()
