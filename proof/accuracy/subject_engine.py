"""A subject as an engine, so that the text runtime of its task can answer with it."""

from __future__ import annotations

from ...engines.base import Engine
from ...errors import SourceError
from ...graph.tensors import Array, Feeds
from ..subjects.base import Subject
from ..subjects.bundle_engine import BundleSubject


class SubjectEngine(Engine):
    """Passes each call on to a subject, and closes it."""

    target = "ort-cpu"

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


def engine_of(subject: Subject) -> Engine:
    """The engine of a bundle itself, with its profiles and buckets; others wrapped.

    Raises:
        SourceError: when the subject answers nothing but what it was asked before.
    """
    if subject.kept:
        raise SourceError(
            f"{subject.name}: expected a model that answers new texts, got answers that were kept"
        )
    return subject.engine if isinstance(subject, BundleSubject) else SubjectEngine(subject)
