"""An ONNX file in plain ONNX Runtime as a subject."""

from __future__ import annotations

from pathlib import Path

from ...engines.ort.engine import OrtEngine
from ...engines.ort.session import message, session_options
from ...errors import GraphError
from ...graph.tensors import Array, Feeds
from .base import Subject, chosen_feeds


class OnnxSubject(Subject):
    """An ONNX file on the CPU, with every optimisation ONNX Runtime has by default."""

    def __init__(self, name: str, path: Path, engine: OrtEngine) -> None:
        self.name = name
        self.graph = path
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self._engine = engine

    @classmethod
    def open(cls, name: str, path: Path, *, threads: int = 0) -> OnnxSubject:
        """Open a session.

        Args:
            name: as the user wrote it.
            path: the file.
            threads: CPU threads; 0 for all physical cores.

        Raises:
            GraphError: when there is no such file, or ONNX Runtime refuses it.
            MissingPackageError: without onnxruntime.
        """
        if not path.is_file():
            found = "a folder" if path.is_dir() else "nothing of that name"
            raise GraphError(f"{name}: expected an ONNX file at {path}, found {found}")
        options = session_options(threads)  # raises when onnxruntime is missing
        import onnxruntime as ort

        try:
            session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # each ONNX Runtime status is its own subclass of Exception
            raise GraphError(f"{name}: ONNX Runtime refuses the file: {message(error)}") from error
        return cls(name, path, OrtEngine(session, "ort-cpu", options.intra_op_num_threads, ()))

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Answer once."""
        return self._engine.run(chosen_feeds(self.inputs, feeds, self.name))

    def close(self) -> None:
        """Drop the session."""
        self._engine.close()
