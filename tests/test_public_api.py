"""What users may import; a change here is a change of the interface."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest

import fuselage
from fuselage import errors

ROOT = Path(__file__).resolve().parent.parent
VERBS = ["bench", "build", "compare", "evaluate", "load", "pipeline", "report"]
ERRORS = [
    "BuildError",
    "BundleError",
    "CalibrationError",
    "DeadlineError",
    "DeviceError",
    "DrainingError",
    "ExportError",
    "FeedError",
    "FuselageError",
    "GraphError",
    "MissingPackageError",
    "OpsetError",
    "OverloadError",
    "PassError",
    "ServingError",
    "SourceError",
    "TextError",
    "VerificationError",
]


def test_public_names_are_pinned() -> None:
    assert fuselage.__all__ == [*ERRORS, "__version__", *VERBS]
    assert all(hasattr(fuselage, name) for name in fuselage.__all__)


def test_nothing_public_is_left_out() -> None:
    public = {
        name
        for name, value in vars(fuselage).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("fuselage")
    }
    assert public <= set(fuselage.__all__)


def test_every_error_of_ours_is_public_and_of_one_family() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert defined == set(ERRORS)
    assert all(issubclass(getattr(errors, name), errors.FuselageError) for name in ERRORS)


def test_the_error_tree_of_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert sorted([*drawn, "FuselageError"]) == ERRORS
    assert issubclass(errors.OpsetError, errors.GraphError)


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert fuselage.__version__ == project["version"]


SIGNATURES = {
    "bench": "(*subjects, baselines=(), model=None, task='auto', mode='engine', shapes=(), "
    "texts=(), clients=1, rate=None, seconds=3.0, iterations=10, threads=0, floor=0.02, "
    "memory=True, anyway=False, trust=False)",
    "build": "(model, *, out, precision='auto', compare_precisions=False, targets=(), "
    "task='auto', texts=None, "
    "int8_embeddings=False, float_attention=False, min_sqnr=None, min_cosine=None, "
    "evaluation=None, max_drop=None, "
    "weights='pretrained', revision=None, shapes=(), profiles='wide', "
    "compute_capabilities=(), gpu_memory=None, refittable=False, strip_plan=False, "
    "weight_streaming=False, layout='padded', threads=0, verify='final', require=(), "
    "costs=None, force=False, cache=True)",
    "compare": "(reference, candidates, *, texts=None, gate=None, tolerances=(), task='auto', "
    "threads=0, locate=True, trust=False)",
    "evaluate": "(path, data, *, targets=(), reference=None, max_drop=None, threads=0, "
    "trust=False)",
    "load": "(path, *, target=None, fallback=(), threads=0, executor=None, trust=False)",
    "pipeline": "(path, *, target=None, fallback=(), threads=0, executor=None, trust=False)",
    "report": "(bundle, other=None, *, out='report.html', comparison=None, evaluation=None, "
    "benchmark=None, cost_model=None, run=True)",
}


@pytest.mark.parametrize("name", VERBS)
def test_signatures_are_pinned(name: str) -> None:
    signature = inspect.signature(getattr(fuselage, name))
    bare = [parameter.replace(annotation=inspect.Parameter.empty)
            for parameter in signature.parameters.values()]  # fmt: skip
    plain = signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    assert str(plain) == SIGNATURES[name]


@pytest.mark.parametrize("name", VERBS)
def test_verbs_document_their_arguments(name: str) -> None:
    text = inspect.getdoc(getattr(fuselage, name)) or ""
    for parameter in inspect.signature(getattr(fuselage, name)).parameters:
        assert f"    {parameter}: " in text


def test_a_missing_package_says_how_to_get_it() -> None:
    error = fuselage.MissingPackageError("tensorrt-rtx", "rtx", "building for RTX")
    assert str(error) == (
        "building for RTX needs the package 'tensorrt-rtx', which is not installed here; "
        'install it with: pip install "fuselage[rtx]"'
    )
    assert (error.package, error.extra) == ("tensorrt-rtx", "rtx")
