"""Chunks to answers to a file that is whole or not there, and a run that goes on after anything.

The order on the disk is: answers, then the journal that counts them; at the end the whole file,
then its name, then the journal goes. Whatever stands behind the counted answers is cut off by the
next run, so an end at any moment leaves neither a gap nor an answer twice.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import TextError
from .chunks import Chunk, chunks
from .journal import Journal, sync_folder
from .outputs import Output
from .rows import TextFile

Answer = Callable[[Chunk], Any]
Advanced = Callable[[int], None]


class ResumableRun:
    """Answers a file into another one.

    Attributes:
        journal: how far it came.
        resumed: texts that an earlier run answered.

    Args:
        out: the file to write; one that is there stays until the new one is complete.
        output: its format.
        setting: everything the answers depend on but the texts: a change refuses to go on.
        restart: forget what an earlier run left.
    """

    def __init__(
        self, out: Path, output: Output, setting: Mapping[str, Any], *, restart: bool = False
    ) -> None:
        self._out = out
        self._output = output
        self._restart = restart
        self.partial, self.journal_path = partial_paths(out)
        self.journal = Journal(setting=setting)
        self.resumed = 0

    def __call__(self, file: TextFile, answer: Answer, advanced: Advanced) -> int:
        """Answer all texts that are not answered yet.

        Args:
            file: the texts.
            answer: a chunk's texts to their answers, in order.
            advanced: is told how many texts are answered.

        Returns:
            Texts in the complete file.

        Raises:
            TextError: when there is no text, an earlier run was about something else, or another
                one is under way.
        """
        with _locked(self.partial) as partial:
            self._recall(partial)
            try:
                advanced(self.journal.rows)
                for chunk in chunks(file, self.journal.rows, self.journal.digest):
                    self._keep(partial, chunk, answer(chunk))
                    advanced(chunk.end)
                if self.journal.rows == 0:
                    raise TextError(f"{file.name}: expected one text a line, got no text")
                self._finish(partial)
            finally:
                if self.journal.rows == 0:
                    self.partial.unlink(missing_ok=True)
        return self.journal.rows

    def _recall(self, partial: BinaryIO) -> None:
        if self._restart:
            self.journal_path.unlink(missing_ok=True)
            sync_folder(self._out.parent)
        if not partial.seek(0, os.SEEK_END) and self.journal_path.exists():
            # it belongs to a run that ended between its last two steps
            self.journal_path.unlink()
            sync_folder(self._out.parent)
        if self.journal_path.exists():
            found = Journal.read(self.journal_path)
            found.check(self.journal.setting, self.journal_path)
            if found.size > partial.tell():
                raise TextError(
                    f"{self.partial}: expected at least {found.size:,} bytes of answers, got "
                    f"{partial.tell():,}; give --restart to begin anew"
                )
            self.journal = found
            self.resumed = found.rows
        partial.truncate(self.journal.size)
        partial.seek(self.journal.size)

    def _keep(self, partial: BinaryIO, chunk: Chunk, answers: Any) -> None:
        self._output.write(partial, chunk, answers)
        partial.flush()
        os.fsync(partial.fileno())
        self.journal = replace(
            self.journal, rows=chunk.end, digest=chunk.digest, size=partial.tell()
        )
        self.journal.write(self.journal_path)

    def _finish(self, partial: BinaryIO) -> None:
        result = self._output.finish(partial, self.partial, self.journal.rows)
        partial.flush()
        os.fsync(partial.fileno())
        result.replace(self._out)
        sync_folder(self._out.parent)
        if result != self.partial:
            self.partial.unlink()
        self.journal_path.unlink()


def partial_paths(out: Path) -> tuple[Path, Path]:
    """Where the answers so far and the journal lie."""
    return out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.journal")


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for this process alone; made when it is not there."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "rb+") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _taken(path) from error
            # the other run may have ended, and given the file its name, before this one locked it
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise _taken(path)
        yield file


def _taken(path: Path) -> TextError:
    return TextError(f"{path}: another run is writing it; wait for its end or give another --out")


def placed(error: TextError, chunk: Chunk) -> TextError:
    """The same error with the place in the file instead of the number in the chunk."""
    found = re.match(r"(?:text|question) (\d+): ", str(error))
    if found is None:
        return error
    return TextError(f"{chunk.rows[int(found[1])].place}: {str(error)[found.end() :]}")
