"""Files that several verbs read text and examples from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...calibration.evaluation.records import EvaluationFile, parse_columns
from ...errors import CalibrationError


def read_texts(files: list[Path] | None, columns: list[str] | None, limit: int | None) -> Any:
    """The texts of ``--text``; None without any."""
    if not files and not columns and limit is None:
        return None
    from ...calibration.text.data import DEFAULT_LIMIT, CalibrationSet

    if not files:
        option = "--text-column" if columns else "--text-limit"
        raise CalibrationError(f"{option} tells how to read --text FILE, which was not given")
    return CalibrationSet.from_files(files, columns=columns or (), limit=limit or DEFAULT_LIMIT)


def read_evaluation(file: Path | None, columns: list[str] | None) -> EvaluationFile | None:
    """The examples of ``--eval``; None without any."""
    if file is not None:
        return EvaluationFile.read(file, parse_columns(columns or []))
    if columns:
        raise CalibrationError("--eval-column tells how to read --eval FILE, which was not given")
    return None
