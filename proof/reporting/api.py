"""`fuselage.report`: importing it imports nothing that draws."""

from __future__ import annotations

from pathlib import Path


def report(
    bundle: str | Path,
    other: str | Path | None = None,
    *,
    out: str | Path = "report.html",
    comparison: str | Path | None = None,
    evaluation: str | Path | None = None,
    benchmark: str | Path | None = None,
    cost_model: str | Path | None = None,
    run: bool = True,
) -> Path:
    """Write one HTML file that says what a bundle is worth, and what was not checked.

    Args:
        bundle: folder of the bundle.
        other: a second one, to stand beside the first.
        out: the file, which needs no network and is replaced when it is complete.
        comparison: document of ``fuselage compare``; None compares here, where that takes seconds.
        evaluation: document of ``fuselage evaluate``.
        benchmark: document of ``fuselage bench``.
        cost_model: document of ``fuselage inspect --costs``; None counts here, without timing.
        run: fill in what was not given where that is quick.

    Returns:
        ``out``.

    Raises:
        BundleError: when a bundle is missing or damaged.
        MissingPackageError: when jinja2 or matplotlib are not installed.
        FuselageError: when a document is malformed or the file cannot be written.
    """
    from .make import ReportRequest, make_report

    named = {
        "comparison": comparison,
        "evaluation": evaluation,
        "benchmark": benchmark,
        "cost-model": cost_model,
    }
    request = ReportRequest(
        bundles=(Path(bundle),) if other is None else (Path(bundle), Path(other)),
        out=Path(out),
        documents={kind: None if path is None else Path(path) for kind, path in named.items()},
        run=run,
    )
    make_report(request)
    return request.out
