"""The command that builds a bundle again, from its recipe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from ...compiler.models.aliases import alias_of
from ...engines.manifest import Manifest

_VALUES = {
    "precision": (("auto", None), "--precision"),
    "task": (("auto", None), "--task"),
    "weights": (("pretrained", None), "--weights"),
    "profiles": (("wide", None), "--profiles"),
    "verify": (("final", None), "--verify"),
    "gpu_memory": ((None,), "--gpu-memory"),
}
"""Key of the recipe -> values that are the default, and the option."""

_LISTS = {
    "targets": "--target",
    "shapes": "--shapes",
    "compute_capabilities": "--compute-capability",
}
_FLAGS = ("int8_embeddings", "float_attention", "refittable", "strip_plan", "weight_streaming")
_FILES = {"texts": "--text", "evaluation": "--eval", "costs": "--costs"}
_COMMIT = re.compile(r"[0-9a-f]{40}")


def model_name(manifest: Manifest) -> str:
    """What a command calls the model: its alias, which may need no network, or its id."""
    return alias_of(manifest.model.id) or manifest.model.id


def reference_name(manifest: Manifest) -> str:
    """What a command calls the PyTorch model that the bundle was made from."""
    drawn = "random:" if manifest.weights == "random" else ""
    return f"torch:{drawn}{model_name(manifest)}"


def build_command(manifest: Manifest, out: str) -> tuple[str, bool]:
    """The command, and whether it is all that is needed.

    Args:
        manifest: of the bundle.
        out: folder to build into.

    Returns:
        False with ``FILE`` in the command where the recipe knows files of the user by digest alone.
    """
    recipe = manifest.recipe
    words = ["fuselage", "build", model_name(manifest), "--out", out]
    for key, (defaults, option) in _VALUES.items():
        if recipe.get(key) not in defaults:
            words += [option, str(recipe[key])]
    if manifest.model.revision and _COMMIT.fullmatch(manifest.model.revision):
        words += ["--revision", manifest.model.revision]
    for key, option in _LISTS.items():
        words += [word for value in recipe.get(key) or () for word in (option, str(value))]
    words += ["--" + key.replace("_", "-") for key in _FLAGS if recipe.get(key)]
    words += ["--compare-precisions"] if recipe.get("compared") else []
    words += _budget(recipe.get("budget") or {})
    files = [option for key, option in _FILES.items() if recipe.get(key)]
    words += [word for option in files for word in (option, "FILE")]
    return shlex.join(words), not files


def _budget(budget: Mapping[str, Any]) -> list[str]:
    words = []
    for key in ("min_sqnr", "min_cosine"):
        if budget.get(key) is not None:
            words += ["--" + key.replace("_", "-"), str(budget[key])]
    for metric, points in (budget.get("max_drop") or {}).items():
        words += ["--max-drop", f"{metric}={points}"]
    return words
