from __future__ import annotations

import ctypes
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from fuselage.engines.tensorrt.log import LogLines, make_logger
from fuselage.engines.tensorrt.native_output import native_output


def filled() -> LogLines:
    lines = LogLines()
    for severity, text in (
        ("VERBOSE", "detail"),
        ("WARNING", "ModelImporter.cpp:1071: Make sure input input_ids has Int64 binding."),
        ("WARNING", "slow\n"),
        ("WARNING", "slow"),
        ("ERROR", "broken"),
        ("INTERNAL_ERROR", "very broken"),
        ("ERROR", "broken"),
        ("WARNING", "Profile kMAX values are not self-consistent. 32 != 16"),
    ):
        lines.add(severity, text)
    return lines


def test_errors_and_warnings_are_told_apart() -> None:
    lines = filled()
    assert lines.errors == (
        "broken",
        "very broken",
        "Profile kMAX values are not self-consistent. 32 != 16",
    )
    assert lines.warnings == ("slow",)


def test_problems_are_taken_once() -> None:
    lines = filled()
    assert lines.take_problems().startswith("broken; very broken; Profile")
    assert lines.take_problems() == "TensorRT gave no reason"
    lines.add("WARNING", "slow")
    assert lines.take_problems() == "slow"


def test_a_limit_keeps_the_newest() -> None:
    lines = LogLines(2)
    for text in "abc":
        lines.add("ERROR", text)
    assert lines.errors == ("b", "c")


@pytest.mark.parametrize(("verbose", "kept"), [(True, ["a", "b", "c"]), (False, ["a"])])
def test_the_logger_collects(fakes: ModuleType, verbose: bool, kept: list[str]) -> None:
    lines = LogLines()
    logger = make_logger(SimpleNamespace(ILogger=fakes.ILogger), lines, verbose=verbose)
    logger.log(fakes.Severity.WARNING, "a")
    logger.log(fakes.Severity.INFO, "b")
    logger.log(fakes.Severity.VERBOSE, "c")
    assert list(lines.texts()) == kept


def test_native_output_keeps_warnings_and_passes_the_rest_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    lines = LogLines()
    print("before")  # noqa: T201
    with native_output(lines):
        os.write(1, b"WARNING: in op a, something\nprogress 50%\n")
        ctypes.CDLL(None).printf(b"WARNING: in op b, buffered by C\n")
        assert capfd.readouterr().out == "before\n"
    assert lines.warnings == ("in op a, something", "in op b, buffered by C")
    assert capfd.readouterr().out == "progress 50%\n"


def test_native_output_is_undone_when_the_build_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="stop"), native_output(LogLines()):
        raise ValueError("stop")
    os.write(1, b"visible")
    sys.stdout.flush()
    assert capfd.readouterr().out == "visible"
