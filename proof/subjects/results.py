"""Kept answers as a subject: our own .npz, or what Polygraphy saved as JSON."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import FeedError, SourceError
from ...graph.tensors import Array, Dim, Feeds, TensorSpec
from ..writing import check_file, whole_file
from .base import Subject, chosen_feeds

ABOUT = "about.json"
"""Entry of the .npz with names, dims and precision; arrays are ``0/in/NAME`` and ``0/out/NAME``."""

SCHEMA = 1
JUDGED = "/judged"
"""Ends the name of a mask that goes with an output in Polygraphy's files; not an output."""


@dataclass(frozen=True, kw_only=True)
class KeptCase:
    """What was asked and what was answered.

    Attributes:
        name: of the case.
        feeds: one array an input.
        outputs: one array an output.
    """

    name: str
    feeds: Feeds
    outputs: Mapping[str, Array] = field(repr=False)


class ResultsSubject(Subject):
    """Answers that were kept; it can be asked for these and no others. Make it with `open`."""

    def __init__(
        self,
        name: str,
        cases: Sequence[KeptCase],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        precision: str | None = None,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self.precision = precision
        self.kept = {case.name: case.feeds for case in cases}
        self._answers = {_digest(inputs, case.feeds): case.outputs for case in cases}

    @classmethod
    def open(cls, name: str, rest: str) -> ResultsSubject:
        """Read a file of answers.

        Args:
            name: as the user wrote it.
            rest: ``FILE.npz`` of `save_results`; or ``FILE.json`` of Polygraphy's
                ``--save-outputs``, with the inputs of ``--save-inputs`` in ``inputs.json`` beside
                it or named behind a comma, and the runner behind ``#`` where there are several.

        Raises:
            SourceError: when a file is missing, no such file, or holds no answer.
            MissingPackageError: for Polygraphy's files without Polygraphy.
        """
        path = Path(rest.partition("#")[0].partition(",")[0])
        if not path.is_file():
            raise SourceError(f"{name}: expected kept answers at {path}, found no such file")
        if path.suffix == ".npz":
            return cls._read(name, path)
        from ..comparing.polygraphy_files import read_run_results

        cases = read_run_results(name, rest)
        return cls(
            name, cases, _specs([c.feeds for c in cases]), _specs([c.outputs for c in cases])
        )

    @classmethod
    def _read(cls, name: str, path: Path) -> ResultsSubject:
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(file[ABOUT].tobytes())
                if about["schema"] != SCHEMA:
                    raise SourceError(f"{name}: schema {about['schema']} is not {SCHEMA}")
                cases = [
                    KeptCase(
                        name=case,
                        feeds={n: file[f"{i}/in/{n}"] for n in _names(about["inputs"])},
                        outputs={n: file[f"{i}/out/{n}"] for n in _names(about["outputs"])},
                    )
                    for i, case in enumerate(about["cases"])
                ]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise SourceError(
                f"{name}: expected a file that `fuselage compare --save-reference` wrote: {error}"
            ) from error
        if not cases:
            raise SourceError(f"{name}: the file holds no answer")
        inputs, outputs = (
            tuple(TensorSpec(n, d, tuple(dims)) for n, d, dims in about[side])
            for side in ("inputs", "outputs")
        )
        return cls(name, cases, inputs, outputs, about["precision"])

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Look the answer up."""
        fed = chosen_feeds(self.inputs, feeds, self.name)
        answer = self._answers.get(_digest(self.inputs, fed))
        if answer is None:
            shapes = {name: list(array.shape) for name, array in fed.items()}
            raise FeedError(
                f"{self.name}: holds answers to {len(self.kept)} cases and none to these feeds "
                f"{shapes}; ask it for the cases it was made with"
            )
        return dict(answer)


def save_results(path: Path, subject: Subject, cases: Sequence[KeptCase]) -> None:
    """Keep a subject's answers in a .npz that ``results:FILE`` opens.

    Args:
        path: of the file, which ends in .npz.
        subject: who answered.
        cases: what it was asked and what it answered.

    Raises:
        FuselageError: when the name does not end in .npz, or the file cannot be written.
    """
    check_file(path, ".npz")
    about = {
        "schema": SCHEMA,
        "subject": subject.name,
        "precision": subject.precision,
        "cases": [case.name for case in cases],
        "inputs": [[s.name, s.dtype, s.dims] for s in subject.inputs],
        "outputs": [[s.name, s.dtype, s.dims] for s in subject.outputs],
    }
    arrays: dict[str, Any] = {ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for index, case in enumerate(cases):
        arrays |= {f"{index}/in/{name}": array for name, array in case.feeds.items()}
        arrays |= {f"{index}/out/{name}": array for name, array in case.outputs.items()}
    with whole_file(path) as file:
        np.savez(file, **arrays)


def _names(specs: Any) -> Iterator[str]:
    return (name for name, _, _ in specs)


def _digest(inputs: tuple[TensorSpec, ...], feeds: Feeds) -> str:
    sha = hashlib.sha256()
    for spec in inputs:
        array = np.ascontiguousarray(feeds[spec.name])
        sha.update(f"{spec.name} {array.shape}".encode() + array.tobytes())
    return sha.hexdigest()


def _specs(arrays: Sequence[Mapping[str, Array]]) -> tuple[TensorSpec, ...]:
    """Specs of what has none, from the shapes seen: an axis whose size changes is dynamic."""
    return tuple(
        TensorSpec(name, first.dtype.name, _dims([each[name].shape for each in arrays]))
        for name, first in arrays[0].items()
    )


def _dims(shapes: Sequence[tuple[int, ...]]) -> tuple[Dim, ...]:
    names = ("batch", "sequence")
    return tuple(
        sizes[0] if len(set(sizes)) == 1 else (names[axis] if axis < len(names) else f"axis_{axis}")
        for axis, sizes in enumerate(zip(*shapes, strict=True))
    )
