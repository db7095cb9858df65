from __future__ import annotations

import pytest

from fuselage.compiler.progress import Journal, Listener, Silent
from fuselage.graph.history import StageRecord


class Recorder:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def started(self, stage: str) -> None:
        self.lines.append(f"started {stage}")

    def advanced(self, done: int, total: int) -> None:
        self.lines.append(f"{done}/{total}")

    def ended(self, stage: str, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.lines.append(f"ended {stage}")

    def note(self, line: str) -> None:
        self.lines.append(f"note {line}")


def test_stages_are_announced_and_ended_in_order() -> None:
    recorder = Recorder()
    journal = Journal(recorder)
    with journal.stage("export"):
        journal.listener.advanced(1, 2)
        journal.note("traced with eager attention")
    with journal.stage("prove"):
        pass
    assert recorder.lines == [
        "started export",
        "1/2",
        "note traced with eager attention",
        "ended export",
        "started prove",
        "ended prove",
    ]
    assert journal.notes == ["traced with eager attention"]


def test_a_stage_that_fails_is_not_said_to_have_ended() -> None:
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError), Journal(recorder).stage("export"):
        raise ZeroDivisionError
    assert recorder.lines == ["started export"]


def test_records_that_are_no_passes() -> None:
    journal = Journal(Silent())
    journal.record("build ort-cpu", 1.5, 50, 50)
    assert journal.records == [
        StageRecord(stage="build ort-cpu", seconds=1.5, nodes_before=50, nodes_after=50)
    ]


def test_silence_is_a_listener() -> None:
    listener: Listener = Silent()
    journal = Journal(listener)
    with journal.stage("export"):
        journal.listener.advanced(1, 2)
        journal.note("line")
    assert (journal.records, journal.notes) == ([], ["line"])
