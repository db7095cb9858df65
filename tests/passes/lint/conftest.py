"""The corpus of small graphs, and what TensorRT-RTX makes of each of them.

A file is ONNX text below comments: the first line says what the graph is, ``# expect: RULE at
NODE, NODE`` what the lint must find, ``# gpus: SM89 SM120`` what to build for, and ``# weight: NAME
DTYPE[DIMS] = VALUE`` fills an initializer with one value.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.lint.tensorrt import COMPUTE_CAPABILITIES

CORPUS = Path(__file__).parent / "corpus"
WEIGHT = re.compile(r"^# weight: (\w+) (\w+)\[([\d, ]*)\] = (\S+)$", re.MULTILINE)
EXPECT = re.compile(r"^# expect: (\S+) at (.+)$", re.MULTILINE)
GPUS = re.compile(r"^# gpus: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """One file of the corpus; a good one expects no rule."""

    name: str
    model: ir.Model
    gpus: tuple[str, ...]
    rule: str | None
    nodes: tuple[str, ...]


def read_case(path: Path) -> Case:
    text = path.read_text("utf-8")
    model = ir.from_onnx_text(text)
    values = ir.convenience.create_value_mapping(model.graph)
    for name, dtype, dims, number in WEIGHT.findall(text):
        kind = ir.DataType[dtype.upper()]
        shape = [int(dim) for dim in dims.split(",") if dim.strip()]
        tensor = ir.tensor(
            np.full(shape, float(number)).astype(kind.numpy()), dtype=kind, name=name
        )
        value = values[name]
        value.const_value, value.type = tensor, ir.TensorType(kind)
        value.shape = ir.Shape(shape)
        model.graph.register_initializer(value)
    expected = EXPECT.search(text)
    gpus = GPUS.search(text)
    return Case(
        path.stem,
        model,
        tuple(gpus[1].split()) if gpus else COMPUTE_CAPABILITIES,
        expected[1] if expected else None,
        tuple(expected[2].split(", ")) if expected else (),
    )


def read_folder(name: str) -> list[Case]:
    return [read_case(path) for path in sorted((CORPUS / name).glob("*.onnxtxt"))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``trap`` or ``good`` runs once a file."""
    for argument, folder in (("trap", "traps"), ("good", "good")):
        if argument in metafunc.fixturenames:
            cases = read_folder(folder)
            metafunc.parametrize(argument, cases, ids=[case.name for case in cases])


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Name of a file -> ``built``, or why TensorRT-RTX did not build it."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("the package tensorrt-rtx is not installed, which parses and builds here")
    folder = tmp_path_factory.mktemp("corpus")
    jobs = []
    for case in (*read_folder("traps"), *read_folder("good")):
        ir.save(case.model, folder / f"{case.name}.onnx")
        jobs.append({"path": str(folder / f"{case.name}.onnx"), "gpus": case.gpus})
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("build_all.py")],
        input=json.dumps(jobs), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith('["'))
