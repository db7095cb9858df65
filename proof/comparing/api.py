"""``fuselage.compare``: the command line's ``compare`` from Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...calibration.text.data import CalibrationSet
    from ...engines.text.texts import Text
    from .compare import Comparison


def compare(
    reference: str,
    candidates: str | Sequence[str],
    *,
    texts: Iterable[Text | Sequence[int]] | CalibrationSet | None = None,
    gate: str | Path | None = None,
    tolerances: str | Sequence[str] = (),
    task: str = "auto",
    threads: int = 0,
    locate: bool = True,
    trust: bool = False,
) -> Comparison:
    """Compare what candidates answer with what a reference answers.

    Args:
        reference: ``torch:MODEL[@REVISION]``, ``torch:random:MODEL``, ``ort:FILE``,
            ``bundle:DIR[#TARGET]`` or ``results:FILE``.
        candidates: one name or several, spelled alike; a bundle without a target stands for every
            engine of it that runs here.
        texts: texts, pairs or lists of token ids, of which 64 are drawn, beside the built-in cases;
            a `CalibrationSet` is taken as it is; None takes ten texts that ship.
        gate: TOML file with bounds.
        tolerances: bounds such as ``logits:relative=1e-3``, which win over the file.
        task: of ``torch:`` subjects; ``auto`` picks by the architecture.
        threads: CPU threads; 0 for all physical cores allowed to this process.
        locate: look for the first layer that is off when a candidate fails.
        trust: open bundles without a manifest; a TensorRT plan is code.

    Returns:
        The verdict with all metrics; `Comparison.as_document` is fit for JSON.

    Raises:
        FuselageError: when nothing can be compared; a candidate that fails raises nothing.
    """
    from ...calibration.text.data import CalibrationSet
    from ..subjects.open import SubjectOptions
    from .gates import read_gates
    from .run import ComparisonRequest, run_comparison
    from .sources import TEXT_LIMIT, Asked

    if texts is not None and not isinstance(texts, CalibrationSet):
        texts = CalibrationSet.from_texts(texts, limit=TEXT_LIMIT)
    request = ComparisonRequest(
        reference=reference,
        candidates=_listed(candidates),
        asked=Asked() if texts is None else Asked(texts=texts.texts),
        gates=read_gates(None if gate is None else Path(gate), _listed(tolerances)),
        options=SubjectOptions(threads=threads, task=task, trust=trust),
        locate=locate,
    )
    return run_comparison(request)


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name alone is one name, not its letters."""
    return (names,) if isinstance(names, str) else tuple(names)
