"""One open ONNX Runtime session as an Engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...errors import DeviceError, FeedError
from ...graph.tensors import Array, Feeds, check_feeds
from ..base import DlpackTensor, Engine
from .binding import borrow, run_bound, stand_ins
from .session import message, specs

_REFUSALS = ("broadcast", "out of data bounds")


class OrtEngine(Engine):
    """Runs numpy arrays through a session.

    The session releases the GIL while it runs and may be used by many threads.

    Args:
        session: an ``InferenceSession``.
        target: for example ``ort-cpu``.
        threads: intra-op threads it was opened with.
        notes: what the user should know.
        device: ``cpu`` or ``cuda``, where its inputs and outputs are.

    Attributes:
        threads: intra-op threads of the session.
    """

    def __init__(
        self,
        session: Any,
        target: str,
        threads: int,
        notes: tuple[str, ...],
        device: str = "cpu",
    ) -> None:
        self._session: Any = session
        self.target = target
        self.inputs = specs(session.get_inputs())
        self.outputs = specs(session.get_outputs())
        self.notes = notes
        self.threads = threads
        self._device = device
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
        session = self._open_session()
        check_feeds(self.inputs, feeds)
        with self._explained(feeds):
            outputs = session.run(self._names, dict(feeds))
        return dict(zip(self._names, outputs, strict=True))

    def run_dlpack(
        self, feeds: Mapping[str, DlpackTensor], *, stream: int | None = None
    ) -> dict[str, DlpackTensor]:
        """Run once by IO binding on memory of the engine's device; see `Engine.run_dlpack`.

        ONNX Runtime queues on a stream of its own, so a stream cannot be given.

        Raises:
            FeedError: on wrong names, dtypes, ranks or sizes, another device, or a stream.
            DeviceError: when the engine is closed or the device fails.
        """
        if stream is not None:
            raise FeedError(
                f"{self.target}: ONNX Runtime runs on a stream of its own; expected no stream, "
                f"got {stream}; synchronise it before the call and leave it out"
            )
        session = self._open_session()
        values = borrow(feeds, self._device)
        shapes = stand_ins(values)
        check_feeds(self.inputs, shapes)
        with self._explained(shapes):
            return run_bound(session, values, self._names, self._device)

    def close(self) -> None:
        """Drop the session; ONNX Runtime frees it once running calls have returned."""
        self._session = None

    def _open_session(self) -> Any:
        session = self._session
        if session is None:
            raise DeviceError(f"{self.target}: the engine is closed; load the bundle again")
        return session

    @contextmanager
    def _explained(self, feeds: Feeds) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each ONNX Runtime status is its own subclass of Exception
            kind = FeedError if _is_refusal(error) else DeviceError
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise kind(f"{self.target}: {message(error)}; fed {shapes}") from error


def _is_refusal(error: Exception) -> bool:
    """Whether the values or sizes that were fed are at fault, not the device."""
    # Sizes that contradict the graph, such as a sequence beyond its positions, come as a
    # RuntimeException of the broadcast; by IO binding, so does an index beyond a table.
    text = str(error).lower()
    return type(error).__name__ == "InvalidArgument" or any(word in text for word in _REFUSALS)
