"""``fuselage.evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...calibration.evaluation.records import EvaluationFile
    from .evaluate import Evaluation


def evaluate(
    path: str | Path,
    data: str | Path | EvaluationFile,
    *,
    targets: str | Sequence[str] = (),
    reference: str | None = None,
    max_drop: Mapping[str, float] | None = None,
    threads: int = 0,
    trust: bool = False,
) -> Evaluation:
    """Judge a bundle's engines on examples by the metrics of its task.

    Args:
        path: folder of the bundle.
        data: file of examples with what should be answered.
        targets: engines of the bundle; empty for all that run on this machine.
        reference: any subject that answers text, for example ``torch:minilm``; None for the
            bundle's own float graph.
        max_drop: what each metric may lose, for example ``{"spearman": 0.1}`` points of 100; see
            ``passed`` of what is returned.
        threads: CPU threads; 0 for all physical cores allowed to this process.
        trust: open engines without a manifest; a TensorRT plan is code.

    Raises:
        CalibrationError: when the examples do not fit the task, naming file, line and column.
        DeviceError: when no engine of the bundle runs here.
        FuselageError: as opening bundle and reference does.
    """
    from ...calibration.evaluation.records import EvaluationFile
    from ...calibration.metrics.table import check_max_drop
    from ..subjects.open import SubjectOptions
    from .evaluate import evaluate as judge

    check_max_drop(max_drop or {})
    return judge(
        path,
        EvaluationFile.read(data) if isinstance(data, str | Path) else data,
        targets=(targets,) if isinstance(targets, str) else tuple(targets),
        reference=reference,
        max_drop=max_drop,
        options=SubjectOptions(threads=threads, trust=trust),
    )
