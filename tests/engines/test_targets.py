from __future__ import annotations

import subprocess
import sys

import pytest

from fuselage.engines import targets
from fuselage.engines.targets import TARGETS, backend, default_targets
from fuselage.errors import BuildError


class Stub:
    def __init__(self, blocker: str | None) -> None:
        self.blocker = blocker

    def build_blocker(self) -> str | None:
        return self.blocker


def test_order_of_preference() -> None:
    assert tuple(TARGETS) == ("tensorrt", "tensorrt-rtx", "ort-cuda", "ort-cpu")


@pytest.mark.parametrize("name", TARGETS)
def test_every_backend_names_its_target_and_answers_both_questions(name: str) -> None:
    found = backend(name)
    assert found.target == name
    for blocker in (found.build_blocker(), found.run_blocker()):
        assert blocker is None or len(blocker) > 20


def test_unknown_target_lists_the_known() -> None:
    with pytest.raises(
        BuildError, match="'trt': expected one of tensorrt, tensorrt-rtx, ort-cuda, ort-cpu"
    ):
        backend("trt")


def test_default_is_what_builds_here_and_always_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "tensorrt": lambda: Stub("no GPU"),
        "tensorrt-rtx": lambda: Stub(None),
        "ort-cpu": lambda: Stub("not installed"),
    }
    monkeypatch.setattr(targets, "TARGETS", table)
    assert default_targets() == ("tensorrt-rtx", "ort-cpu")


def test_making_backends_imports_no_engine_package() -> None:
    code = (
        "import sys; from fuselage.engines.targets import TARGETS, backend;"
        "[backend(name) for name in TARGETS];"
        "heavy = {'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'cuda', 'onnx_ir', 'torch'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
