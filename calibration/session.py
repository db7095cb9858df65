"""Run a graph as it is written: ONNX Runtime without its optimiser, weights not copied."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import onnx_ir as ir

from ..engines.ort.session import message, session_options
from ..errors import CalibrationError
from ..graph.model import Graph
from ..graph.tensors import Array, Feeds, TensorSpec
from ..graph.weights import detach_weights


class GraphSession:
    """A graph ready to run on the CPU, with any of its tensors as extra outputs.

    The optimiser is off, so a tapped tensor is exactly what the graph describes, and so is the
    reference that an engine is compared with. With `fast` it is on, except for what turns Q/DQ
    into integer operators. A float graph then differs by 3e-7. Behind Q/DQ such a difference takes
    some values to the next code and grows from layer to layer: single answers of MiniLM differ by
    37 dB, though the noise against the float graph is the same (25.90 and 25.89 dB).

    Attributes:
        inputs: the graph's inputs.
        outputs: names of what `run` returns, taps included.

    Args:
        graph: any graph; it is not changed.
        taps: names of tensors to return as well.
        threads: CPU threads, 0 for all physical cores.
        seconds: what all runs together may take, None for any time; a loop may have no end.
        packed: for many runs: weights are packed again, which takes a second copy of them.
        fast: optimised as well; it also holds a float copy of quantised weights.

    Raises:
        CalibrationError: when a tap is not a tensor of the graph, or ONNX Runtime refuses it.
        MissingPackageError: without onnxruntime.
    """

    def __init__(
        self,
        graph: Graph,
        taps: Sequence[str] = (),
        threads: int = 0,
        seconds: float | None = None,
        *,
        packed: bool = False,
        fast: bool = False,
    ) -> None:
        self.inputs: tuple[TensorSpec, ...] = graph.inputs
        model = _expose(graph.model, taps)
        self._session, self._weights = _open(model, threads, packed=packed or fast, fast=fast)
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())
        self._seconds, self._left = seconds, seconds

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once and return the named outputs, all of them by default.

        Raises:
            CalibrationError: when ONNX Runtime cannot run the graph on these feeds, or not in time.
        """
        names = self.outputs if outputs is None else tuple(outputs)
        try:
            arrays = self._run(list(names), dict(feeds))
        except Exception as error:  # each ONNX Runtime status is its own subclass of Exception
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise CalibrationError(
                f"ONNX Runtime cannot run the graph on {shapes}: {message(error)}"
            ) from error
        return dict(zip(names, arrays, strict=True))

    def _run(self, names: list[str], feeds: dict[str, Array]) -> list[Array]:
        if self._left is None:
            return list(self._session.run(names, feeds))
        import onnxruntime as ort

        options = ort.RunOptions()
        timer = threading.Timer(self._left, setattr, (options, "terminate", True))
        start = time.monotonic()
        timer.start()
        try:
            return list(self._session.run(names, feeds, options))
        except Exception as error:
            if time.monotonic() - start < self._left:
                raise
            raise TimeoutError(f"it takes more than {self._seconds:.0f} s") from error
        finally:
            timer.cancel()
            self._left = max(self._left - (time.monotonic() - start), 0.0)

    def close(self) -> None:
        """Release the session and its memory."""
        self._session = None
        self._weights = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _expose(model: ir.Model, taps: Sequence[str]) -> ir.Model:
    model = model.clone()
    values = ir.convenience.create_value_mapping(model.graph)
    present = {value.name for value in model.graph.outputs}
    for name in taps:
        if name not in values:
            raise CalibrationError(
                f"tensor {name!r}: not in the graph; the plan was made for another graph"
            )
        if name not in present:
            model.graph.outputs.append(values[name])
    return model


def _open(model: ir.Model, threads: int, *, packed: bool, fast: bool) -> tuple[Any, list[Any]]:
    options = session_options(threads)  # raises when onnxruntime is missing
    import onnxruntime as ort

    ort.set_default_logger_severity(4)  # allocators log to stderr what is raised as well
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if fast else level.ORT_DISABLE_ALL
    if fast:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    # Batches differ in shape: a memory pattern would be planned and kept for each of them.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    if not packed:
        # The session lives for one pass: repacking would hold a second copy of every weight.
        options.add_session_config_entry("session.disable_prepacking", "1")
    detached = detach_weights(model)
    weights = [_ort_value(array) for array in detached.weights.values()]
    options.add_external_initializers(list(detached.weights), weights)
    try:
        session = ort.InferenceSession(detached.graph, options, ["CPUExecutionProvider"])
    except Exception as error:  # each ONNX Runtime status is its own subclass of Exception
        raise CalibrationError(f"ONNX Runtime refuses the graph: {message(error)}") from error
    return session, weights


def _ort_value(array: Array) -> Any:
    """A value that views the array; numpy alone has no FP8, so its type is told."""
    import onnxruntime as ort

    if array.dtype.isbuiltin == 1:
        return ort.OrtValue.ortvalue_from_numpy(array)
    dtype = int(ir.DataType.from_numpy(array.dtype))
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, dtype)
