"""The tests marked gpu; a smoke run collects them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from .part import Findings, Sizes, SkipPartError

_ROOT = Path(__file__).resolve().parents[2]
_COUNT = re.compile(r"(\d+)(?:/\d+)? (passed|failed|skipped|errors?|tests? collected)")


def measure(sizes: Sizes) -> Findings:
    """How many passed and were skipped; a failure fails the part."""
    if importlib.util.find_spec("pytest") is None:
        raise SkipPartError("pytest is not installed here")
    command = [sys.executable, "-m", "pytest", "tests/engines/tensorrt", "-q", "-m", "gpu"]
    command += ["-p", "no:cacheprovider", "-rfs"]
    command += ["--collect-only"] if sizes.smoke else []
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    counts = {name: int(number) for number, name in _COUNT.findall(lines[-1] if lines else "")}
    findings = Findings()
    findings.row("pytest -m gpu", **counts)
    findings.notes += [line for line in lines if line.startswith(("FAILED", "SKIPPED", "ERROR"))]
    if done.returncode:
        raise AssertionError(f"pytest -m gpu: {'; '.join([*findings.notes, *lines[-1:]])}")
    return findings
