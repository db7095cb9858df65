"""Makes the report: reads, fills in what is quick to measure, writes one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import FuselageError
from ..writing import check_file, whole_file
from .bundle_facts import BundleFacts
from .documents import read_documents
from .fill_in import fill_in
from .page import render_page, report_data

Told = Callable[[str], None]

_SUFFIXES = (".html", ".htm")
_MOST = 2


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """What to report on.

    Attributes:
        bundles: one folder, or two that stand side by side.
        out: the HTML file.
        documents: kind -> file that a verb wrote, or None.
        run: fill in what was not given where that is quick.
    """

    bundles: tuple[Path, ...]
    out: Path
    documents: Mapping[str, Path | None] = field(default_factory=dict)
    run: bool = True


@dataclass(frozen=True, kw_only=True)
class MadeReport:
    """What was written.

    Attributes:
        bytes: of the HTML file.
        data: what it was made from, as JSON.
    """

    bytes: int
    data: dict[str, Any] = field(repr=False)


def make_report(request: ReportRequest, told: Told = lambda _: None) -> MadeReport:
    """Write the report.

    Args:
        request: what to report on.
        told: hears what is filled in, and why something is not.

    Raises:
        BundleError: when a bundle is missing or damaged.
        MissingPackageError: when jinja2 or matplotlib are not installed.
        FuselageError: when a document is malformed or the file cannot be written.
    """
    if not 1 <= len(request.bundles) <= _MOST:
        raise FuselageError(f"report: expected one bundle or two, got {len(request.bundles)}")
    check_file(request.out, *_SUFFIXES)
    documents = read_documents(request.documents)
    labels = ("",) if len(request.bundles) == 1 else ("A", "B")
    bundles = [
        BundleFacts.read(path, label) for path, label in zip(request.bundles, labels, strict=True)
    ]
    if request.run:
        documents = fill_in(bundles, documents, told)
    page = render_page(bundles, documents).encode()
    with whole_file(request.out) as file:
        file.write(page)
    return MadeReport(bytes=len(page), data=report_data(bundles, documents))
