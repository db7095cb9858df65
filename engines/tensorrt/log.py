"""Collect what TensorRT says: its functions return None or False and put the reason in the log."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Any

_FAILURES = frozenset({"ERROR", "INTERNAL_ERROR"})

_SETTLED = (
    # Inputs are bound with the dtype the plan states, so this advice is always followed.
    re.compile(r"Make sure input \S+ has Int64 binding"),
)

_FATAL_WARNINGS = (
    # The plan would refuse, at run time, sizes that its profile promises.
    re.compile(r"Profile k\w+ values are not self-consistent"),
)

_NATIVE_WARNING = re.compile(r"^WARNING: (.*)$", re.MULTILINE)


class LogLines:
    """Lines of one build or one engine.

    Args:
        limit: keep only the newest lines; None keeps all.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._lines: deque[tuple[str, str]] = deque(maxlen=limit)

    def add(self, severity: str, text: str) -> None:
        """Take one message; severity is TensorRT's name, for example ``WARNING``."""
        self._lines.append((severity, text.strip()))

    def add_native(self, output: str) -> str:
        """Take the warnings out of what the library printed past its logger, return the rest."""
        for text in _NATIVE_WARNING.findall(output):
            self.add("WARNING", text)
        return _NATIVE_WARNING.sub("", output).strip("\n")

    @property
    def errors(self) -> tuple[str, ...]:
        """Distinct messages of failures, oldest first; some of them come as mere warnings."""
        failures = [
            text
            for level, text in tuple(self._lines)
            if level in _FAILURES or (level == "WARNING" and _matches(_FATAL_WARNINGS, text))
        ]
        return tuple(dict.fromkeys(failures))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Distinct warnings a user can act on, oldest first."""
        warnings = [
            text
            for level, text in tuple(self._lines)
            if level == "WARNING" and not _matches(_SETTLED + _FATAL_WARNINGS, text)
        ]
        return tuple(dict.fromkeys(warnings))

    def mark(self) -> int:
        """How many lines there are, for `take_since`."""
        return len(self._lines)

    def take_since(self, mark: int) -> str:
        """Take back the problems of a step that may fail: the lines since a mark, those alone."""
        lines = list(self._lines)
        self._lines.clear()
        self._lines.extend(lines[:mark])
        bad = {text for level, text in lines[mark:] if level in (*_FAILURES, "WARNING")}
        return "; ".join(sorted(bad))

    def texts(self) -> Iterator[str]:
        """All messages of any severity, oldest first."""
        return (text for _, text in self._lines)

    def take_problems(self) -> str:
        """Errors, or else warnings, as one string for an exception; the log is empty after."""
        problems = self.errors or self.warnings
        self._lines.clear()
        return "; ".join(problems) or "TensorRT gave no reason"


def make_logger(trt: Any, lines: LogLines, *, verbose: bool) -> Any:
    """A logger of the flavour that writes to ``lines``.

    Args:
        trt: the flavour's module; the class must derive from its ILogger.
        lines: where messages go; called from TensorRT's own threads.
        verbose: whether to keep what is below a warning.

    Returns:
        An ``ILogger``; it must outlive every object it was given to.
    """
    quiet = frozenset({trt.ILogger.VERBOSE, trt.ILogger.INFO}) if not verbose else frozenset()

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity not in quiet:
                lines.add(severity.name, msg)

    return CollectingLogger()


def _matches(patterns: tuple[re.Pattern[str], ...], text: str) -> bool:
    return any(pattern.search(text) for pattern in patterns)
