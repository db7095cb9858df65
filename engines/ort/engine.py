"""One open ONNX Runtime session as an Engine."""

from __future__ import annotations

from typing import Any

from ...errors import DeviceError, FeedError
from ...graph.tensors import Array, Feeds, check_feeds
from ..base import Engine
from .session import message, specs


class OrtEngine(Engine):
    """Runs numpy arrays through a session.

    The session releases the GIL while it runs and may be used by many threads.

    Attributes:
        threads: intra-op threads of the session.
    """

    def __init__(self, session: Any, target: str, threads: int, notes: tuple[str, ...]) -> None:
        self._session: Any = session
        self.target = target
        self.inputs = specs(session.get_inputs())
        self.outputs = specs(session.get_outputs())
        self.notes = notes
        self.threads = threads
        self._names = [spec.name for spec in self.outputs]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; contiguous feeds are read in place, others are copied by ONNX Runtime.

        Args:
            feeds: one array an input, exactly the dtype of its TensorSpec.

        Returns:
            A new array for each output, by name.

        Raises:
            FeedError: on wrong names, dtypes, ranks or sizes, or values the graph cannot take,
                such as a token id beyond the vocabulary.
            DeviceError: when the engine is closed or the device fails.
        """
        session = self._session
        if session is None:
            raise DeviceError(f"{self.target}: the engine is closed; load the bundle again")
        check_feeds(self.inputs, feeds)
        try:
            outputs = session.run(self._names, dict(feeds))
        except Exception as error:  # each ONNX Runtime status is its own subclass of Exception
            kind = FeedError if _is_refusal(error) else DeviceError
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise kind(f"{self.target}: {message(error)}; fed {shapes}") from error
        return dict(zip(self._names, outputs, strict=True))

    def close(self) -> None:
        """Drop the session; ONNX Runtime frees it once running calls have returned."""
        self._session = None


def _is_refusal(error: Exception) -> bool:
    """Whether the values or sizes that were fed are at fault, not the device."""
    # Sizes that contradict the graph, such as a sequence beyond its positions, come as a
    # RuntimeException of the broadcast.
    return type(error).__name__ == "InvalidArgument" or "broadcast" in str(error).lower()
