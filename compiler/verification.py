"""Is a bundle what its manifest says, and does its recipe give these bytes again?"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..calibration.evaluation.records import EvaluationFile
from ..calibration.text.data import CalibrationSet
from ..engines.base import ENGINE_FACTS
from ..engines.bundle import Bundle
from ..errors import BuildError
from .models.aliases import ALIASES, DEMO_ALIAS
from .pipeline import run_build
from .progress import Listener
from .recipe import Request, changes
from .report import REPORT

_TIMED = (REPORT, ENGINE_FACTS)
"""Names of files that hold times, and so differ between two builds."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a bundle was made from and does not hold.

    Attributes:
        model: where the model is now; None for the id in the recipe.
        texts: calibration texts; None when the build had none.
        evaluation: examples; None when the build had none.
        costs: cost table; None for the one that ships.
    """

    model: str | None = None
    texts: CalibrationSet | None = None
    evaluation: EvaluationFile | None = None
    costs: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """A bundle beside another build of its recipe.

    Attributes:
        equal: files with the same bytes.
        different: files with others, or that only one of them has; empty for a sound recipe.
        timed: files that hold times and were not compared.
        changed: what differs between the recipes: versions, the code of fuselage.
    """

    equal: tuple[str, ...]
    different: tuple[str, ...]
    timed: tuple[str, ...]
    changed: tuple[str, ...]


def rebuild(bundle: Bundle, inputs: Inputs, listener: Listener | None = None) -> Rebuilt:
    """Build the recipe of a bundle in a temporary folder, without the cache, and compare.

    Raises:
        BuildError: when the inputs are not those of the bundle.
        FuselageError: of the stage that failed.
    """
    manifest = bundle.manifest
    with tempfile.TemporaryDirectory(prefix="fuselage-verify-") as folder:
        request = _request(manifest.recipe, inputs, Path(folder) / "bundle")
        again = run_build(request, listener, use_cache=False).bundle.manifest
    if again.model.digest != manifest.model.digest:
        raise BuildError(
            f"{request.model}: this is not the model that {bundle.root} was built from: its digest "
            f"is {again.model.digest[:12]}..., not {manifest.model.digest[:12]}..."
        )
    names = sorted(set(manifest.files) | set(again.files))
    timed = tuple(name for name in names if Path(name).name in _TIMED)
    compared = [name for name in names if name not in timed]
    equal = [name for name in compared if manifest.files.get(name) == again.files.get(name)]
    return Rebuilt(
        equal=tuple(equal),
        different=tuple(name for name in compared if name not in equal),
        timed=timed,
        changed=tuple(changes(manifest.recipe, again.recipe)),
    )


def _request(recipe: Mapping[str, Any], inputs: Inputs, out: Path) -> Request:
    texts = None if inputs.texts is None else inputs.texts.digest
    _check_input("--text", "texts", recipe["texts"], texts)
    examples = None if inputs.evaluation is None else inputs.evaluation.digest
    _check_input("--eval", "examples", recipe["evaluation"], examples)
    if (recipe["costs"] is None) != (inputs.costs is None):
        expected = "no --costs" if recipe["costs"] is None else "--costs FILE"
        raise BuildError(f"cost table: the bundle was built with {expected}; give the same")
    model = recipe["model"]
    is_demo = inputs.model is None and model["id"] == ALIASES[DEMO_ALIAS].hub_id
    is_named = inputs.model is None and not is_demo
    # What the request and the recipe call by the same name is the same.
    given = {"model", "texts", "evaluation", "costs"}
    alike = {field.name for field in fields(Request)} & recipe.keys() - given
    asked = {name: _as_asked(recipe[name]) for name in alike}
    return Request(
        model=inputs.model or (DEMO_ALIAS if is_demo else model["id"]),
        out=out,
        revision=model["revision"] if is_named and recipe["weights"] == "pretrained" else None,
        texts=inputs.texts,
        evaluation=inputs.evaluation,
        costs=inputs.costs,
        comparison=tuple({"name": name} for name in recipe.get("compared", ())),
        **recipe["budget"],
        **asked,
    )


def _as_asked(value: Any) -> Any:
    """A value of a recipe as a request holds it: lists were tuples."""
    return tuple(value) if isinstance(value, list) else value


def _check_input(option: str, noun: str, wanted: str | None, given: str | None) -> None:
    """The digest of an input that is not in the bundle must be the one in its recipe."""
    if wanted == given:
        return
    if wanted is None:
        raise BuildError(f"{noun}: the bundle was built without {option} FILE; leave it out")
    found = "none" if given is None else f"others, of digest {given[:12]}..."
    raise BuildError(
        f"{noun}: expected those the bundle was built with, of digest {wanted[:12]}..., got "
        f"{found}; a bundle never holds them, give them with {option} FILE"
    )
