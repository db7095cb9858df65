"""One quantizer on one ONNX file, in its own process and with the Python that has the tool.

    PYTHONPATH=benchmarks python -m int8.worker REQUEST

REQUEST is a JSON object: ``tool`` (a key of `TOOLS`), ``options`` of the tool, ``source`` and
``out`` (ONNX files), ``texts`` (a file of `token_rows`), ``feed`` (a key of `FEEDS`), ``limit``
(texts at most, or null) and ``packages`` whose versions are wanted. The last line on stdout is a
JSON object: ``seconds`` from the call to the written file, ``cpu_seconds``, ``peak_mb`` that the
process grew by meanwhile, ``versions``; or ``error``. Nothing of fuselage is imported: the
environments of the peers do not have it.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, np.ndarray]
Quantize = Callable[[], None]

_BATCH = 16
_PADDED_BATCH = 8


def token_rows(path: Path) -> list[np.ndarray]:
    """Token ids of every text: an npz file with ``ids`` of all texts in a row, and ``lengths``."""
    with np.load(path) as stored:
        return np.split(stored["ids"], np.cumsum(stored["lengths"])[:-1])


def by_length(rows: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Batches ``[at most 16, length]`` without padding, the shortest first."""
    ordered = sorted(rows, key=len)
    for _, group in itertools.groupby(ordered, key=len):
        same = np.stack(list(group))
        yield from np.split(same, range(_BATCH, len(same), _BATCH))


def padded(rows: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Batches of one shape, padded with 0 to the longest text; none is left over."""
    longest = max(map(len, rows))
    table = np.stack([np.pad(row, (0, longest - len(row))) for row in rows])
    yield from np.split(table, len(rows) // math.gcd(len(rows), _PADDED_BATCH))


FEEDS: Mapping[str, Callable[[Sequence[np.ndarray]], Iterator[np.ndarray]]] = {
    "by length": by_length,
    "padded": padded,
}


class Reader:
    """Feeds in the form that ONNX Runtime's calibrators, and those built on them, read.

    `set_range` and the length serve ``CalibStridedMinMax``.
    """

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self.rewind()

    def __len__(self) -> int:
        return len(self._feeds)

    def __iter__(self) -> Iterator[Feed]:
        return iter(self._feeds)

    def rewind(self) -> None:
        """Start again."""
        self._rest = iter(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with these feeds alone."""
        self._rest = iter(self._feeds[start_index:end_index])

    def get_next(self) -> Feed | None:
        """The next feed, None at the end."""
        return next(self._rest, None)

    def get_first(self) -> Feed:
        """The first feed; nothing is consumed."""
        return self._feeds[0]


def reader_of(request: Mapping[str, Any]) -> Reader:
    """The texts as the request wants them fed."""
    rows = token_rows(Path(request["texts"]))[: request.get("limit")]
    batches = FEEDS[request["feed"]](rows)
    return Reader(
        [
            {
                "input_ids": ids,
                "attention_mask": (ids != 0).astype(np.int64),
                "token_type_ids": np.zeros_like(ids),
            }
            for ids in batches
        ]
    )


def prepared(source: str, folder: str) -> str:
    """The source after the optimisation and shape inference that ONNX Runtime asks for.

    Its symbolic shape inference is left out: ONNX Runtime 1.31 raises "Incomplete symbolic shape
    inference" for what torch 2.13 exports. ONNX's own, and the exporter's shapes, are enough here.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = str(Path(folder) / "prepared.onnx")
    quant_pre_process(source, path, skip_symbolic_shape=True)
    return path


def excluded(source: str, options: Mapping[str, Any]) -> list[str]:
    """Nodes to leave in float: those named, and with ``linears`` the products of two activations.

    `quantize_static` does not heed its own option MatMulConstBOnly in the Q/DQ format.
    """
    import onnx

    graph = onnx.load(source, load_external_data=False).graph
    constants = {weight.name for weight in graph.initializer}
    products = [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and constants.isdisjoint(node.input)
    ]
    return [*options.get("exclude", ()), *(products if options.get("linears") else ())]


def ort_dynamic(request: Mapping[str, Any]) -> Quantize:
    """onnxruntime.quantization.quantize_dynamic."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            quantize_dynamic(
                prepared(request["source"], folder),
                request["out"],
                weight_type=QuantType.QInt8,
                **request["options"],
            )

    return run


def ort_static(request: Mapping[str, Any]) -> Quantize:
    """onnxruntime.quantization.quantize_static, Q/DQ format, per-channel int8 weights."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    options = request["options"]
    CalibrationDataReader.register(Reader)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = prepared(request["source"], folder)
            quantize_static(
                source,
                request["out"],
                reader_of(request),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=options.get("operators"),
                nodes_to_exclude=excluded(source, options),
                per_channel=True,
                activation_type=getattr(QuantType, options.get("activations", "QInt8")),
                weight_type=QuantType.QInt8,
                calibrate_method=getattr(CalibrationMethod, options["method"]),
                extra_options=dict(options.get("extra", {})),
            )

    return run


def modelopt(request: Mapping[str, Any]) -> Quantize:
    """modelopt.onnx.quantization.quantize, int8, the rest in float32."""
    from modelopt.onnx.quantization import quantize

    options = request["options"]

    def run() -> None:
        left = excluded(request["source"], options)
        quantize(
            request["source"],
            quantize_mode="int8",
            calibration_data_reader=reader_of(request),
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=request["out"],
            log_level="ERROR",
            nodes_to_exclude=[f"{name}$" for name in left],  # patterns
            **options["settings"],
        )

    return run


def smooth_quant(request: Mapping[str, Any]) -> Quantize:
    """SmoothQuant of onnx-neural-compressor, per-channel int8 weights."""
    from onnx_neural_compressor import data_reader
    from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize

    options = request["options"]
    data_reader.CalibrationDataReader.register(Reader)

    def run() -> None:
        settings = config.SmoothQuantConfig(
            calibration_data_reader=reader_of(request),
            quant_format=QuantFormat.QDQ,
            activation_type=getattr(QuantType, options.get("activations", "QInt8")),
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=excluded(request["source"], options),
            calib_iter=1 << 20,  # all of the texts
            extra_options={"SmoothQuant": True, **options["extra"]},
            **options["settings"],
        )
        quantize(request["source"], request["out"], settings)

    return run


TOOLS: Mapping[str, Callable[[Mapping[str, Any]], Quantize]] = {
    "ort dynamic": ort_dynamic,
    "ort static": ort_static,
    "modelopt": modelopt,
    "smooth quant": smooth_quant,
}


def memory_mb(name: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process, in MB of 10^6 bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status has no {name}")


def measured(run: Quantize) -> dict[str, float]:
    """Run, and tell the seconds (wall clock and CPU) and the growth of the resident memory."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
    before, start, busy = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
    run()
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - busy,
        "peak_mb": memory_mb("VmHWM") - before,
    }


def answer(
    request: Mapping[str, Any], tools: Mapping[str, Callable[[Mapping[str, Any]], Quantize]]
) -> dict[str, Any]:
    """What the request asks for, or the error of the tool."""
    try:
        run = tools[request["tool"]](request)
        Path(request["out"]).parent.mkdir(parents=True, exist_ok=True)
        result: dict[str, Any] = measured(run)
    except BaseException as error:  # a tool may even call sys.exit
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return {**result, "versions": {name: version(name) for name in request["packages"]}}


def main() -> None:
    """Answer the request in the first argument."""
    print("\n" + json.dumps(answer(json.loads(sys.argv[1]), TOOLS)), flush=True)


if __name__ == "__main__":
    main()
