"""The whole of ``fuselage compare``: opens subjects by name, compares, keeps what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import VerificationError
from ...graph.tensors import Array
from ..subjects.open import SubjectOptions, open_subject, runnable_names
from ..subjects.results import KeptCase, save_results
from ..writing import check_file
from .compare import Comparison, compare_subjects
from .gates import Gates
from .polygraphy_files import PolygraphyFolder
from .sources import Asked


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """What to compare, and what to keep of it.

    Attributes:
        reference: name of what is right.
        candidates: names of the others; a bundle without a target stands for every engine of it
            that runs here.
        asked: where the cases come from.
        gates: what the user allows.
        options: how subjects are opened.
        save_reference: .npz for the reference's answers, or None.
        save_polygraphy: folder for Polygraphy's command line, or None.
        locate: look for the first layer that is off when a candidate fails.
    """

    reference: str
    candidates: Sequence[str]
    asked: Asked = field(default_factory=Asked)
    gates: Gates = field(default_factory=Gates)
    options: SubjectOptions = field(default_factory=SubjectOptions)
    save_reference: Path | None = None
    save_polygraphy: Path | None = None
    locate: bool = True


def run_comparison(
    request: ComparisonRequest, tell: Callable[[str], None] = lambda _: None
) -> Comparison:
    """Open, compare, close.

    Args:
        request: what to do.
        tell: told what the user should know while it runs.

    Raises:
        FuselageError: when a subject cannot be opened or cannot answer, see `compare_subjects`.
    """
    if not request.candidates:
        raise VerificationError("compare: expected at least one candidate behind the reference")
    save = request.save_reference
    check_file(save, ".npz")
    names = []
    for candidate in request.candidates:
        runs, left = runnable_names(candidate, request.options)
        names += runs
        for reason in left:
            tell(f"not compared: {reason}")
    folder = None if request.save_polygraphy is None else PolygraphyFolder(request.save_polygraphy)
    with ExitStack() as stack:
        reference, *candidates = (
            stack.enter_context(open_subject(name, request.options))
            for name in (request.reference, *names)
        )
        kept: list[dict[str, Array]] = []

        def keep(which: int, case: int, outputs: dict[str, Array]) -> None:
            if folder is not None:
                folder.keep(which, case, outputs)
            if save is not None and not which:
                kept.append(outputs)

        comparison = compare_subjects(
            reference,
            candidates,
            request.asked,
            request.gates,
            keep=keep if folder or save else None,
            locate=request.locate,
        )
        if save is not None:
            save_results(save, reference, _kept_cases(comparison, kept))
            tell(f"answers of {reference.name} kept in {save}; compare with results:{save}")
        if folder is not None:
            tell(f"to repeat it with Polygraphy: {folder.write(comparison, reference, candidates)}")
    return comparison


def _kept_cases(comparison: Comparison, answers: Sequence[dict[str, Array]]) -> list[KeptCase]:
    return [
        KeptCase(name=case.name, feeds=case.feeds, outputs=outputs)
        for case, outputs in zip(comparison.cases, answers, strict=True)
    ]
