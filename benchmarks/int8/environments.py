"""The peers' virtual environments, and one request to a worker in one of them."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[1]
_TIMEOUT = 1800


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What pip installs into one virtual environment.

    Attributes:
        packages: with what they depend on.
        alone: without: their open ranges would bring CUDA, or versions that do not work together.
        shown: packages whose versions stand in the table.
    """

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()
    shown: tuple[str, ...]

    def python(self, folder: Path) -> Path:
        """The interpreter; the environment is made when it is missing or has other packages."""
        python, stamp = folder / "bin" / "python", folder / ".complete"
        wanted = "\n".join((*self.packages, *self.alone))
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            venv.create(folder, with_pip=True, clear=True)
            pip = [str(python), "-m", "pip", "install", "--quiet"]
            for command in ([*pip, *self.packages], [*pip, "--no-deps", *self.alone]):
                if command[-1] != "--no-deps":
                    subprocess.run(command, check=True)
            stamp.write_text(wanted, encoding="utf-8")
        return python


ENVIRONMENTS: Mapping[str, Environment] = {
    "onnxruntime": Environment(
        packages=("onnxruntime==1.31.1", "onnx==1.23.2", "sympy==1.14.0", "numpy==2.4.6"),
        shown=("onnxruntime",),
    ),
    # Asks for onnxruntime-gpu ~=1.24.2; on a machine without a GPU its CPU twin does the same.
    # torch is imported and not used: where pip finds the CUDA build, give PIP_INDEX_URL a CPU one.
    "modelopt": Environment(
        packages=(
            "onnx==1.21.0",
            "onnxruntime==1.24.4",
            "onnx-graphsurgeon==0.6.1",
            "onnxconverter-common==1.16.0",
            "onnxscript==0.7.2",
            "onnxslim==0.1.98",
            "polygraphy==0.53.6",
            "lief",
            "ml_dtypes",
            "ninja",
            "nvidia-ml-py",
            "omegaconf",
            "pulp<4",
            "pydantic",
            "regex",
            "rich",
            "safetensors",
            "scipy",
            "setuptools>=80,<83",
            "tqdm",
            "filelock",
            "fsspec",
            "jinja2",
            "networkx",
            "sympy",
            "typing_extensions",
        ),
        alone=("nvidia-modelopt==0.47.0", "cppimport==26.4.17", "torch==2.13.0"),
        shown=("nvidia-modelopt", "onnxruntime", "onnx"),
    ),
    # The newest ONNX Runtime of its time; it asks for numpy below 2.
    "onnx-neural-compressor": Environment(
        packages=(
            "numpy==1.26.4",
            "onnx==1.16.2",
            "onnxruntime==1.19.2",
            "onnxruntime-extensions==0.15.2",
            "transformers==4.49.0",
            "psutil",
            "py-cpuinfo",
            "pydantic<3",
            "prettytable",
            "scipy==1.17.1",
            "sympy",
        ),
        alone=("onnx-neural-compressor==1.0",),
        shown=("onnx-neural-compressor", "onnxruntime", "onnx"),
    ),
}


def ask(
    python: str | Path, module: str, request: Mapping[str, Any], *, timeout: float = _TIMEOUT
) -> dict[str, Any]:
    """Run a worker in its own process: a JSON object in, the JSON object of its last line out.

    A worker that dies, hangs or prints none is answered for with an ``error``.
    """
    command = [str(python), "-m", module, json.dumps(request)]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no result in {timeout:g} s"}
    lines = done.stdout.strip().splitlines()
    try:
        return dict(json.loads(lines[-1]))
    except (IndexError, ValueError):
        words = done.stderr.strip().splitlines()[-1:] or [""]
        return {"error": f"the process ended with status {done.returncode}: {words[0][:200]}"}
