"""Builds and loads the targets that ONNX Runtime runs: ``ort-cpu`` and ``ort-cuda``.

The engine is the graph ONNX Runtime optimised, saved with its weights in a file of their own and
reloaded with optimisations off: MiniLM opens in 0.03 to 0.08 s instead of 0.4 s, and the results
are the same bits. Such a graph holds for one version of ONNX Runtime and one set of CPU
instructions, so both are recorded, and elsewhere the bundle's canonical graph is used instead.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import BuildError, BundleError, DeviceError, FeedError, FuselageError
from ...graph.tensors import Array, TensorSpec
from .. import host
from ..base import BuildConfig, Engine, EngineArtifact, LoadOptions
from ..mismatch import Mismatch
from .declared_sizes import check_declared_sizes
from .engine import OrtEngine
from .facts import difference, differences, read_facts, write_facts
from .session import Provider, message, open_session, runtime_version, session_options

if TYPE_CHECKING:
    from ...graph.model import Graph

MODEL = "model.onnx"
WEIGHTS = "model.weights"

PROVIDERS: Mapping[str, Provider] = {
    "ort-cpu": Provider(name="CPUExecutionProvider", extra="cpu"),
    # TF32 would round fp32 inputs to 10 mantissa bits; precision belongs to the graph.
    "ort-cuda": Provider(
        name="CUDAExecutionProvider", extra="gpu", options={"use_tf32": "0"}, needs_gpu=True
    ),
}
"""Target -> execution provider."""

_EXTERNAL_BYTES = 1024
"""Initializers at least this large go to `WEIGHTS`."""

_PROBE_SIZE = 3
"""Size of every dynamic axis in the feed that compares saved and source session."""

_FILE_FAULTS = frozenset(
    {
        "NoSuchFile",
        "InvalidProtobuf",
        "InvalidGraph",
        "InvalidArgument",
        "NoModel",
        "Fail",
        "UnicodeDecodeError",  # a name in it is no text
    }
)
"""Errors of ONNX Runtime that mean the files are at fault, not the machine."""


class OrtBackend:
    """The EngineBackend of the targets in `PROVIDERS`.

    Args:
        target: a key of `PROVIDERS`.
    """

    def __init__(self, target: str) -> None:
        if target not in PROVIDERS:
            raise BuildError(f"target {target!r}: expected one of {sorted(PROVIDERS)}")
        self.target = target
        self._provider = PROVIDERS[target]

    def build_blocker(self) -> str | None:
        """None when this machine can build the target, else what is missing and what to do."""
        return self._provider.blocker()

    def run_blocker(self) -> str | None:
        """None when this machine can run the target, else what is missing and what to do."""
        return self._provider.blocker()

    def build(self, graph: Graph, config: BuildConfig, folder: Path) -> EngineArtifact:
        """Optimise, save, reload, and hold the reloaded engine to the bits of the source session.

        The weights go to ONNX Runtime through a temporary file in ``folder``, which it maps: it
        copies what it is handed in memory (``add_external_initializers``) twice, a file only once,
        while it saves. Neither way has protobuf's limit of 2 GiB.

        Raises:
            BuildError: when the target cannot be built here, the disk is too small, ONNX Runtime
                refuses the graph, or the saved engine answers differently.
            OSError: when the disk is full, or the folder cannot be written.
        """
        blocker = self.build_blocker()
        if blocker:
            raise BuildError(f"{self.target}: {blocker}")
        _check_space(graph, folder)
        threads = config.threads or host.physical_cores()
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=folder, prefix=".source-") as source:
            graph.save(Path(source) / MODEL)
            feeds, expected = self._optimize(Path(source) / MODEL, config, threads, folder)
        seconds = time.perf_counter() - started
        self._check_reload(folder, threads, feeds, expected)
        facts = write_facts(
            folder,
            folder / MODEL,
            target=self.target,
            provider=self._provider,
            threads=threads,
            seconds=seconds,
        )
        files = tuple(sorted(file.name for file in folder.iterdir()))
        return EngineArtifact(target=self.target, files=files, facts=facts)

    def load(self, folder: Path, options: LoadOptions) -> Engine:
        """Open the saved engine, or the canonical graph when it was built for another machine.

        Raises:
            DeviceError: when the provider does not start, or version, architecture or CPU flags
                differ and ``options.source`` is None.
            BundleError: when the files are not what `build` writes.
        """
        blocker = self.run_blocker()
        if blocker:
            raise DeviceError(f"{self.target}: {blocker}")
        differs = difference(read_facts(folder, self.target))
        if differs is None:
            return self._open(folder / MODEL, options.threads, notes=())
        if options.source is None:
            raise DeviceError(
                f"{self.target}: {differs}, and there is no canonical graph to fall back on; "
                "build the bundle again on this machine"
            )
        note = f"{self.target}: {differs}; running the canonical float32 graph, optimised at load"
        return self._open(options.source, options.threads, notes=(note,))

    def mismatches(self, folder: Path) -> tuple[Mismatch, ...]:
        """In what this machine differs from the one the engine was built for; opens no session.

        Raises:
            BundleError: when ``engine.json`` is not what `build` writes.
        """
        facts = read_facts(folder, self.target)
        made_by = f"onnxruntime {facts['package_version']}"
        if importlib.util.find_spec("onnxruntime") is None:
            return (Mismatch("package", made_by, "none"),)
        found = differences(facts)
        if (blocker := self.run_blocker()) is None:
            return found
        provider = Mismatch(self._provider.name, "a GPU and a package that offer it", blocker)
        return (*found, provider)

    def _open(self, path: Path, threads: int, notes: tuple[str, ...]) -> OrtEngine:
        threads = threads or host.physical_cores()
        options = session_options(threads)
        check_declared_sizes(path)
        try:
            session = open_session(str(path), options, self._provider, optimize=bool(notes))
        except FuselageError:
            raise
        except Exception as error:  # each ONNX Runtime status is its own subclass of Exception
            damaged = type(error).__name__ in _FILE_FAULTS
            kind = BundleError if damaged else DeviceError
            raise kind(f"{path}: ONNX Runtime cannot open it: {message(error)}") from error
        device = "cuda" if self._provider.needs_gpu else "cpu"
        return OrtEngine(session, self.target, threads, notes, device)

    def _optimize(
        self, source: Path, config: BuildConfig, threads: int, folder: Path
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Write `MODEL` and `WEIGHTS`; return a probe feed and what the source session answers."""
        options = session_options(threads)
        options.optimized_model_filepath = str(folder / MODEL)
        entry = "session.optimized_model_external_initializers_"
        options.add_session_config_entry(f"{entry}file_name", WEIGHTS)
        options.add_session_config_entry(f"{entry}min_size_in_bytes", str(_EXTERNAL_BYTES))
        try:
            session = open_session(str(source), options, self._provider, optimize=True)
        except FuselageError as error:
            raise BuildError(f"{self.target}: {error}") from error
        except Exception as error:  # each ONNX Runtime status is its own subclass of Exception
            reason = message(error)
            raise BuildError(
                f"{self.target}: ONNX Runtime cannot optimise and save it: {reason}"
            ) from error
        return self._probe(OrtEngine(session, self.target, threads, ()), config)

    def _probe(
        self, engine: OrtEngine, config: BuildConfig
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        reasons = []
        for feeds in _probe_feeds(engine.inputs, config):
            try:
                return feeds, engine.run(feeds)
            except (FeedError, DeviceError) as error:
                reasons.append(str(error))
        raise BuildError(
            f"{self.target}: the graph builds but runs neither on ones nor on zeros; {reasons[0]}"
        )

    def _check_reload(
        self, folder: Path, threads: int, feeds: dict[str, Array], expected: dict[str, Array]
    ) -> None:
        try:
            with self._open(folder / MODEL, threads, notes=()) as engine:
                answers = engine.run(feeds)
        except FuselageError as error:
            raise BuildError(f"{self.target}: the saved engine does not run; {error}") from error
        for name, wanted in expected.items():
            if answers[name].tobytes() != wanted.tobytes():
                raise BuildError(
                    f"{self.target}: output {name!r} of the saved engine differs from the session "
                    f"that saved it (ONNX Runtime {runtime_version()}); expected the same bits"
                )


def _probe_feeds(inputs: tuple[TensorSpec, ...], config: BuildConfig) -> Iterator[dict[str, Array]]:
    """Small feeds inside the profile: ones, then zeros for graphs that refuse an index of one."""
    for fill in (1, 0):
        yield {spec.name: np.full(_probe_shape(spec, config), fill, spec.dtype) for spec in inputs}


def _probe_shape(spec: TensorSpec, config: BuildConfig) -> tuple[int, ...]:
    shape = []
    for dim in spec.dims:
        low, _, high = config.profile.axes.get(str(dim), (1, 1, _PROBE_SIZE))
        shape.append(min(high, max(low, _PROBE_SIZE)) if isinstance(dim, str) else dim)
    return tuple(shape)


def _check_space(graph: Graph, folder: Path) -> None:
    """Refuse before ONNX Runtime writes half a file."""
    needed, free = 2 * graph.weight_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise BuildError(
            f"{folder}: the build needs {needed:,} bytes, but the disk has {free:,} free; "
            "free some space or build elsewhere"
        )
