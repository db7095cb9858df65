"""IO binding: what is queued by others on a GPU has ended before ONNX Runtime reads it."""

from __future__ import annotations

from typing import Any

from fuselage.engines.ort.binding import run_bound


class Binding:
    """Notes what is asked of it, in order."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def bind_ortvalue_input(self, name: str, value: object) -> None:
        self.said.append(f"bind {name} {value}")

    def bind_output(self, name: str, device: str) -> None:
        self.said.append(f"bind {name} {device}")

    def synchronize_inputs(self) -> None:
        self.said.append("wait for inputs")

    def synchronize_outputs(self) -> None:
        self.said.append("wait for outputs")

    def get_outputs(self) -> list[str]:
        return ["answer"]


class Session:
    def __init__(self) -> None:
        self.binding = Binding()

    def io_binding(self) -> Binding:
        return self.binding

    def run_with_iobinding(self, binding: Any) -> None:
        binding.said.append("run")


def test_a_run_waits_for_its_inputs_and_its_outputs() -> None:
    session = Session()
    assert run_bound(session, {"ids": 1}, ["y"], "cuda") == {"y": "answer"}
    assert session.binding.said == [
        "bind ids 1", "bind y cuda", "wait for inputs", "run", "wait for outputs",
    ]  # fmt: skip
