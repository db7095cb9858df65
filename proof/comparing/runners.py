"""Subjects as Polygraphy's runners, so that its Comparator asks them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...errors import MissingPackageError
from ...graph.tensors import Array
from ..subjects.base import Subject

try:
    from polygraphy.backend.base import BaseRunner
    from polygraphy.common import TensorMetadata
    from polygraphy.comparator import Comparator
    from polygraphy.logger import G_LOGGER
except ImportError as missing:
    raise MissingPackageError("polygraphy", "proof", "comparing answers") from missing


class SubjectRunner(BaseRunner):  # type: ignore[misc]
    """A subject in Polygraphy's clothes. It stays open: who opened the subject closes it.

    Args:
        subject: any open subject.
        name: of the runner; None for the subject's.
    """

    def __init__(self, subject: Subject, name: str | None = None) -> None:
        super().__init__(name=name or subject.name)
        self.subject = subject

    def get_input_metadata_impl(self) -> Any:
        """Names, dtypes and shapes; dynamic sizes are -1."""
        metadata = TensorMetadata()
        for spec in self.subject.inputs:
            shape = [dim if isinstance(dim, int) else -1 for dim in spec.dims]
            metadata.add(spec.name, np.dtype(spec.dtype), shape)
        return metadata

    def infer_impl(self, feed_dict: Mapping[str, Array]) -> OrderedDict[str, Array]:
        """Ask the subject."""
        start = time.perf_counter()
        outputs = self.subject.run(feed_dict)
        self.inference_time = time.perf_counter() - start
        return OrderedDict((spec.name, outputs[spec.name]) for spec in self.subject.outputs)


def comparator() -> Any:
    """Polygraphy's ``Comparator``."""
    return Comparator


@contextmanager
def quiet() -> Iterator[None]:
    """Let Polygraphy log errors alone; it prints every tensor otherwise."""
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield
