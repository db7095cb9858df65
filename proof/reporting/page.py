"""The page: every section of every bundle, in one file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Any

from ...errors import MissingPackageError
from .bundle_facts import BundleFacts
from .documents import Documents
from .sections.calibration import CalibrationSection, make_calibration
from .sections.kernels import EngineKernels, make_kernels
from .sections.passes import PassesSection, make_passes
from .sections.picture import PictureSection, make_picture
from .sections.precision import PrecisionSection, make_precision
from .sections.provenance import Provenance, make_provenance
from .sections.verdict import Verdict, make_verdict

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
    kernels: tuple[EngineKernels, ...]
    provenance: Provenance


def make_chapter(bundle: BundleFacts, documents: Documents) -> Chapter:
    """Every section of one bundle."""
    return Chapter(
        bundle=bundle,
        verdict=make_verdict(bundle, documents),
        passes=make_passes(bundle),
        picture=make_picture(bundle),
        precision=make_precision(bundle),
        calibration=make_calibration(bundle),
        kernels=make_kernels(bundle),
        provenance=make_provenance(bundle),
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
    chapters = [make_chapter(bundle, documents) for bundle in bundles]
    return environment.get_template(_TEMPLATE).render(
        chapters=chapters,
        title=" and ".join(chapter.bundle.title for chapter in chapters),
        style=_text("style.css"),
        script=_text("script.js"),
        version=metadata.version("fuselage"),
        data=script_json(report_data(bundles, documents)),
    )


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


def script_json(value: Any) -> str:
    """JSON that may stand in a ``<script>``: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
