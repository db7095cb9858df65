"""An engine of a bundle as a subject."""

from __future__ import annotations

from ...engines.base import Engine
from ...engines.bundle import Bundle
from ...engines.choice import base_target
from ...engines.text.task import TASK_FILE, TaskSpec
from ...graph.tensors import Array, Feeds, ShapeProfile
from .base import Subject, chosen_feeds

_GRAPH = "model.onnx"
"""What an engine of ONNX Runtime computes, in its folder."""


class BundleSubject(Subject):
    """One engine of a bundle; make it with `open`.

    Attributes:
        bundle: the bundle it is from.
        engine: the engine.
        target: its name in the bundle.
    """

    def __init__(self, name: str, bundle: Bundle, engine: Engine) -> None:
        entry = bundle.manifest.targets[engine.name]
        self.name = name
        self.bundle = bundle
        self.engine = engine
        self.target = engine.name
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self.precision = entry.precision
        self.notes = engine.notes
        self.task = TaskSpec.load(bundle.path(TASK_FILE))
        self.tokenizer = bundle.path("tokenizer.json")
        self.profile = ShapeProfile(entry.profile) if entry.profile else None
        if not base_target(engine.name).startswith("ort-"):
            return
        if bundle.mismatches(engine.name):  # made for another machine: the source runs instead
            self.graph, self.precision = bundle.source, "fp32"
        else:
            self.graph = bundle.folder(engine.name) / _GRAPH

    @classmethod
    def open(
        cls,
        name: str,
        path: str,
        target: str | None,
        *,
        threads: int = 0,
        trust: bool = False,
    ) -> BundleSubject:
        """Open an engine.

        Args:
            name: as the user wrote it.
            path: folder of the bundle.
            target: None for the best that runs here.
            threads: CPU threads; 0 for all physical cores.
            trust: open a bundle without a manifest.

        Raises:
            BundleError: when the bundle is missing or damaged, or lacks the target.
            DeviceError: when the target does not run here.
        """
        bundle = Bundle.open(path, trust=trust)
        return cls(name, bundle, bundle.engine(target, threads=threads))

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Answer once."""
        return self.engine.run(chosen_feeds(self.inputs, feeds, self.name))

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()
