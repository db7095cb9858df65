"""A fake GPU, a fake TensorRT of one version, and a plan that runs on them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fuselage.engines.base import ExecutorOptions
from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.engine import TensorRtEngine
from fuselage.engines.tensorrt.facts import PlanFacts

AXES: tuple[int | str, ...] = ("batch", "sequence")
TENSORS = {
    "inputs": [
        {"name": "ids", "dtype": "int64", "dims": list(AXES)},
        {"name": "mask", "dtype": "int64", "dims": list(AXES)},
    ],
    "outputs": [
        {"name": "pooled", "dtype": "float32", "dims": ["batch"]},
        {"name": "hidden", "dtype": "float16", "dims": ["batch", "sequence", 2]},
    ],
}


def compute(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the plan computes; a row that is padding alone gives 0."""
    kept = feeds["ids"] * feeds["mask"]
    return {
        "pooled": kept.sum(axis=1) / np.maximum(feeds["mask"].sum(axis=1), 1),
        "hidden": np.stack([kept, kept + 0.5], axis=-1),
    }


class Rig:
    """Everything a TensorRtEngine needs.

    Args:
        fakes: the package fake/.
        version: a key of api.json.
        profiles: of the plan; the first covers the others.
    """

    def __init__(
        self,
        fakes: ModuleType,
        version: str,
        profiles: tuple[dict[str, list[int]], ...] = (
            {"batch": [1, 2, 64], "sequence": [1, 8, 64]},
        ),
        seed: int = 0,
    ) -> None:
        self.fakes = fakes
        self.cuda = fakes.FakeCuda(seed=seed)
        self.package = version.split("-")[0]
        specs: dict[str, dict[str, Any]] = {
            side: {entry["name"]: (entry["dtype"], tuple(entry["dims"])) for entry in entries}
            for side, entries in TENSORS.items()
        }
        model = fakes.FakeModel(**specs, function=compute)
        self.trt = fakes.FakeTensorRt(version, self.cuda, model, profiles)
        self.content = {
            "target": self.package.replace("_", "-"),
            "package_version": self.trt.__version__,
            "compute_capabilities": ["SM80", "SM89"],
            "bytes": len(fakes.PLAN),
            "profile": profiles[0],
            "profiles": list(profiles),
            **copy.deepcopy(TENSORS),
        }

    def open(self, **options: Any) -> TensorRtEngine:
        """An engine with these `ExecutorOptions`."""
        facts = PlanFacts.parse(self.content)
        executor = ExecutorOptions(**options)
        return TensorRtEngine.open(self.trt, Cuda(self.cuda), self.fakes.PLAN, facts, executor)

    def folder(self, path: Path) -> Path:
        """What a backend loads."""
        (path / "engine.plan").write_bytes(self.fakes.PLAN)
        (path / "engine.json").write_text(json.dumps(self.content))
        return path

    def feeds(self, batch: int, sequence: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Random ids under a mask that pads every row differently."""
        random = np.random.default_rng(seed)
        mask = np.arange(sequence) < random.integers(1, sequence + 1, (batch, 1))
        return {"ids": random.integers(0, 50, (batch, sequence)), "mask": mask.astype(np.int64)}

    def check(
        self, engine: TensorRtEngine, batch: int, sequence: int, seed: int | None = None
    ) -> dict[str, np.ndarray]:
        """Run once and compare dtypes, shapes and values with numpy."""
        fed = self.feeds(batch, sequence, seed=batch if seed is None else seed)
        outputs = engine.run(fed)
        self.compare(outputs, fed)
        return outputs

    @staticmethod
    def compare(outputs: dict[str, np.ndarray], fed: dict[str, np.ndarray]) -> None:
        """Compare dtypes, shapes and values with numpy."""
        expected = compute(fed)
        assert outputs["pooled"].dtype == np.float32
        assert outputs["hidden"].dtype == np.float16
        assert outputs["hidden"].shape == (*fed["ids"].shape, 2)
        np.testing.assert_allclose(outputs["pooled"], expected["pooled"], rtol=1e-6)
        np.testing.assert_array_equal(outputs["hidden"], expected["hidden"].astype(np.float16))
