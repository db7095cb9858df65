"""The page: every section of every bundle, in one file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Any

from markupsafe import Markup

from ...errors import MissingPackageError
from .build_command import reference_name
from .bundle_facts import BundleFacts
from .documents import Documents, missing_documents
from .sections.accuracy import (
    ComparisonSection,
    EvaluationSection,
    make_comparison,
    make_evaluation,
)
from .sections.calibration import CalibrationSection, make_calibration
from .sections.costs import CostSection, make_costs
from .sections.differences import make_differences
from .sections.kernels import EngineKernels, make_kernels
from .sections.passes import PassesSection, make_passes
from .sections.picture import PictureSection, make_picture
from .sections.precision import PrecisionSection, make_precision
from .sections.provenance import Provenance, make_provenance
from .sections.speed import BenchmarkSection, first_idea, make_benchmark
from .sections.verdict import Verdict, make_verdict
from .tables import Table

MOST_DATA = 1_500_000
"""Bytes of JSON in a page, which is to stay below 3 MB."""

_TEMPLATE = "report.html.j2"


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """All that is said of one bundle."""

    bundle: BundleFacts
    verdict: Verdict
    passes: PassesSection
    picture: PictureSection
    precision: PrecisionSection
    calibration: CalibrationSection
    latency: Table | None
    kernels: tuple[EngineKernels, ...]
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What documents beside the bundles say; None for those that were not given."""

    evaluation: EvaluationSection | None
    comparison: ComparisonSection | None
    benchmark: BenchmarkSection | None
    costs: CostSection | None
    missing: dict[str, tuple[str, str]]


def make_chapter(bundle: BundleFacts, documents: Documents) -> Chapter:
    """Every section of one bundle."""
    return Chapter(
        bundle=bundle,
        verdict=make_verdict(bundle, documents),
        passes=make_passes(bundle),
        picture=make_picture(bundle),
        precision=make_precision(bundle),
        calibration=make_calibration(bundle),
        latency=first_idea(bundle),
        kernels=make_kernels(bundle),
        provenance=make_provenance(bundle, documents),
    )


def render_page(bundles: Sequence[BundleFacts], documents: Documents) -> str:
    """The report as HTML.

    Args:
        bundles: one, or two that stand side by side.
        documents: what else is known of the first.

    Raises:
        MissingPackageError: when jinja2 or matplotlib are not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingPackageError("jinja2", "proof", "the report") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    first = bundles[0]
    measured = Measured(
        evaluation=make_evaluation(documents["evaluation"], first),
        comparison=make_comparison(documents),
        benchmark=make_benchmark(documents["benchmark"]),
        costs=make_costs(documents["cost-model"]),
        missing=missing_documents(documents, first.path, reference_name(first.manifest)),
    )
    environment.filters["words"] = whole_words
    chapters = [make_chapter(bundle, documents) for bundle in bundles]
    return environment.get_template(_TEMPLATE).render(
        chapters=chapters,
        measured=measured,
        differences=make_differences(*bundles) if len(bundles) > 1 else None,
        title=_title(bundles),
        style=_text("style.css"),
        script=_text("script.js"),
        version=metadata.version("fuselage"),
        data=script_json(within(report_data(bundles, documents), MOST_DATA)),
    )


def _title(bundles: Sequence[BundleFacts]) -> str:
    if len(bundles) == 1:
        return bundles[0].title
    models = dict.fromkeys(bundle.title for bundle in bundles)
    return f"{' and '.join(models)}: {' and '.join(bundle.name for bundle in bundles)}"


def _text(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text("utf-8")


def report_data(bundles: Sequence[BundleFacts], documents: Documents) -> dict[str, Any]:
    """What the report was made from, as one JSON object."""
    return {
        "schema": 1,
        "kind": "report",
        "bundles": [
            {
                "path": bundle.path,
                "manifest": json.loads(bundle.manifest.to_json()),
                "report": dict(bundle.report.content),
                "engines": {name: dict(facts.content) for name, facts in bundle.engines.items()},
            }
            for bundle in bundles
        ],
        "documents": {kind: dict(facts.content) for kind, facts in documents.found.items()},
    }


def within(data: dict[str, Any], most: int) -> dict[str, Any]:
    """The data without its largest parts, as far as a page can hold them.

    Engines and documents go first to last by size, until the rest is small enough; each leaves a
    line that says so.
    """
    kept: dict[str, Any] = json.loads(json.dumps(data))
    holders = [kept["documents"], *(bundle["engines"] for bundle in kept["bundles"])]
    sizes = [
        (len(json.dumps(part)), index, name)
        for index, holder in enumerate(holders)
        for name, part in holder.items()
    ]
    whole = len(json.dumps(kept))
    for size, index, name in sorted(sizes, reverse=True):
        if whole <= most:
            break
        holders[index][name] = f"left out of the page: {size} bytes; fuselage report --json has it"
        whole -= size
    return kept


def whole_words(command: str) -> Markup:
    """A command whose options do not break at their hyphens."""
    word = Markup('<span class="word">{}</span>')
    return Markup(" ").join(word.format(part) for part in command.split(" "))


def script_json(value: Any) -> str:
    """JSON that may stand in a ``<script>``: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
