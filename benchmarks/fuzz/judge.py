"""Optimise one file as the command line does, and say whether the outcome keeps the promises.

The promises: exit code 0 and a model that the ONNX checker accepts, that ONNX Runtime opens when it
opened the input, and that answers with the input's numbers; or exit code 1, one message, and no
file. Never a traceback, and nothing on stderr that is not fuselage's own.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from fuselage.compiler.cli import run

Array = NDArray[Any]
Stage = Callable[[str], None]

_LONGEST_MESSAGE = 1500
_CLOSE = 1e-3
"""Relative Frobenius distance of an output; mutated weights lose digits that sound ones keep."""

_SIZES = ({"batch": 2, "sequence": 5}, {"batch": 1, "sequence": 1})


def judge(content: bytes, folder: Path, arguments: tuple[str, ...], stage: Stage) -> str:
    """``ok: ...`` or ``fault: ...``.

    Args:
        content: the file to optimise.
        folder: an empty folder to work in.
        arguments: further options of ``fuselage optimize``.
        stage: told what is about to run, so that a crash can be attributed.
    """
    source, target = folder / "in.onnx", folder / "out.onnx"
    source.write_bytes(content)
    stage("optimize")
    code, text, noise = _optimize(source, target, arguments)
    stage("judge")
    left = {path.name for path in folder.iterdir()} - {"in.onnx"}
    if code is None:
        return f"fault: traceback {text}"
    if code != 0:
        return _judge_refusal(code, text, noise, left)
    if noise:
        return f"fault: foreign output {noise[:300]!r}"
    if "out.onnx" not in left or any(name.startswith(".") for name in left):
        return f"fault: exit code 0 leaves {sorted(left)}"
    return _judge_output(content, target, arguments, stage)


def _judge_refusal(code: int, text: str, noise: str, left: set[str]) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    if left:
        return f"fault: exit code {code} leaves {sorted(left)}"
    if code != 1 or len(lines) != 1 or not lines[0].startswith("error: "):
        return f"fault: exit code {code} with {text[:600]!r}"
    if noise:
        return f"fault: foreign output {noise[:300]!r}"
    if len(lines[0]) > _LONGEST_MESSAGE:
        return f"fault: a message of {len(lines[0])} characters: {lines[0][:200]}"
    return f"ok: refused: {lines[0][:300]}"


def _optimize(
    source: Path, target: Path, arguments: tuple[str, ...]
) -> tuple[int | None, str, str]:
    """Exit code (None for an exception), our stderr, and what C++ or logging wrote there."""
    err, out = io.StringIO(), io.StringIO()
    with _captured_descriptor() as foreign:
        try:
            with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
                code = run(["optimize", str(source), str(target), *arguments])
        except BaseException as error:  # whatever it is, it is a fault to report
            frames = traceback.extract_tb(error.__traceback__)
            place = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[:-4:-1])
            return None, f"{type(error).__name__}: {_line(error)} at {place}", ""
    return code, err.getvalue(), foreign()


@contextlib.contextmanager
def _captured_descriptor() -> Iterator[Callable[[], str]]:
    """File descriptor 2 goes to a temporary file; the result reads what came."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)

        def text() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        held = {"text": ""}
        try:
            yield lambda: held["text"]
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held["text"] = text()


def _judge_output(content: bytes, target: Path, arguments: tuple[str, ...], stage: Stage) -> str:
    try:
        onnx.checker.check_model(str(target))
    except Exception as error:
        return f"fault: the checker refuses the output: {_line(error)}"
    stage("input")
    before, why = _session(content)
    if before is None:
        return f"ok: rewritten, the input does not load: {why}"
    stage("output")
    after, why = _session(str(target))
    if after is None and "--verify" in arguments and "merge shape info" in why:
        return "ok: rewritten, the file declares sizes that it does not have"
    if after is None:
        return f"fault: the output does not load, the input does: {why}"
    for kind in ("inputs", "outputs"):
        had, has = (getattr(session, f"get_{kind}")() for session in (before, after))
        if [(v.name, v.type) for v in had] != [(v.name, v.type) for v in has]:
            return f"fault: other {kind}: {_interface(had)} became {_interface(has)}"
    compared = 0
    for sizes in _SIZES:
        verdict = _compare(before, after, sizes, stage)
        if verdict is not None and verdict.startswith("fault"):
            return verdict
        compared += verdict is None
    return f"ok: rewritten, {compared} samples agree"


def _interface(values: Any) -> str:
    return ", ".join(f"{value.name!r}: {value.type}" for value in values)[:200]


def _compare(before: Any, after: Any, sizes: Mapping[str, int], stage: Stage) -> str | None:
    """None when the answers agree; what differs, or why there is nothing to compare."""
    try:
        feeds = {value.name: _feed(value, sizes) for value in before.get_inputs()}
        stage("input")
        wanted, again = before.run(None, feeds), before.run(None, feeds)
    except Exception as error:
        return f"the input does not run: {_line(error)}"
    if any(_difference(one, two) for one, two in zip(wanted, again, strict=True)):
        return "the input does not answer the same twice"
    stage("output")
    try:
        got = after.run(None, feeds)
    except Exception as error:
        return f"fault: the output does not run, the input does: {_line(error)}"
    for value, one, two in zip(before.get_outputs(), wanted, got, strict=True):
        reason = _difference(one, two)
        if reason:
            return f"fault: output {value.name!r} at {dict(sizes)}: {reason}"
    return None


def _difference(wanted: Any, got: Any) -> str | None:
    if isinstance(wanted, list) or isinstance(got, list):
        if type(wanted) is not type(got) or len(wanted) != len(got):
            return "other sequence"
        return next(
            filter(None, (_difference(a, b) for a, b in zip(wanted, got, strict=True))), None
        )
    if not isinstance(wanted, np.ndarray) or not isinstance(got, np.ndarray):
        return None if type(wanted) is type(got) else "other kind"
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return f"{wanted.dtype}{list(wanted.shape)} became {got.dtype}{list(got.shape)}"
    if wanted.dtype.kind != "f":
        return None if np.array_equal(wanted, got) else "other values"
    one, two = wanted.astype(np.float64), got.astype(np.float64)
    # Where the input overflows or divides by zero there is no right answer to hold to.
    sound = np.isfinite(one) & (np.abs(one) < 1e30)
    norm = float(np.linalg.norm(one[sound]))
    error = float(np.linalg.norm(one[sound] - two[sound])) / (norm or 1.0)
    if not error <= _CLOSE:
        return f"relative error {error:.2e}"
    return None


def _session(model: bytes | str) -> tuple[Any, str]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model, options, ["CPUExecutionProvider"]), ""
    except Exception as error:
        return None, _line(error)


_KINDS = {
    "float": "float32", "double": "float64", "float16": "float16", "int64": "int64",
    "int32": "int32", "int8": "int8", "uint8": "uint8", "bool": "bool", "int16": "int16",
    "uint16": "uint16", "uint32": "uint32", "uint64": "uint64",
}  # fmt: skip


def _feed(value: Any, sizes: Mapping[str, int]) -> Array:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    rng = np.random.default_rng(len(value.name))
    shape = [
        dim if isinstance(dim, int) and dim >= 0 else sizes.get(str(dim), 3) for dim in value.shape
    ]
    if int(np.prod(shape, dtype=object)) > 1 << 20:
        raise ValueError(f"{shape} is too large to feed")
    if kind == "string":
        return np.full(shape, "s", np.object_)
    dtype = np.dtype(_KINDS[kind])
    if "mask" in value.name:
        return np.ones(shape, dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return np.asarray(rng.integers(0, 2, shape)).astype(dtype)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
