"""A subject as an engine, so that the text runtime of its task can answer with it."""

from __future__ import annotations

from ...engines.base import Engine
from ...errors import SourceError
from ...graph.tensors import Array, Feeds
from .base import Subject


class SubjectEngine(Engine):
    """Passes each call on to a subject, and closes it."""

    target = "ort-cpu"  # the batches that suit a CPU

    def __init__(self, subject: Subject) -> None:
        self.inputs = subject.inputs
        self.outputs = subject.outputs
        self.notes = subject.notes
        self._subject = subject

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Answer once."""
        return self._subject.run(feeds)

    def close(self) -> None:
        """Close the subject."""
        self._subject.close()


def engine_inside(subject: Subject) -> Engine | None:
    """The engine of a subject of a bundle; None for others."""
    engine = getattr(subject, "engine", None)
    return engine if isinstance(engine, Engine) else None


def as_engine(subject: Subject) -> Engine:
    """The engine of a bundle itself, with its profiles and buckets; others wrapped."""
    return engine_inside(subject) or SubjectEngine(subject)


def refuse_kept(subject: Subject) -> None:
    """Refuse answers that were kept where new questions are asked.

    Raises:
        SourceError: for a subject of that kind.
    """
    if subject.kept:
        raise SourceError(
            f"{subject.name}: expected a bundle:, ort: or torch: subject, which answers anything; "
            "got answers that were kept"
        )
