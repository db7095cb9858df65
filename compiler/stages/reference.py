"""What the PyTorch model answers to the texts of the proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...graph.tensors import Array, ShapeProfile
from ..cache.code import REFERENCE, code_digest
from ..packages import EXPORTING, require
from ..progress import Journal
from .context import Context
from .export import ExportedModel, export_fields
from .product import Product

if TYPE_CHECKING:
    from ..checks.proof import Proof

_ANSWERS = "answers.npz"


def ask_reference(context: Context, exported: ExportedModel, profile: ShapeProfile) -> Product:
    """Ask the model that was just exported, or load it for that; or find its answers.

    Args:
        context: of the build.
        exported: the model; its reference is let go.
        profile: sizes the engines are built for.
    """

    def make(folder: Path, journal: Journal) -> dict[str, Any]:
        del journal
        require(EXPORTING, "building a bundle")
        from ..checks.proof import proof_feeds
        from ..exporting.export import load_reference

        reference = exported.reference or load_reference(context.source, context.request.task)
        arrays: dict[str, Any] = {}
        feeds = proof_feeds(exported.tokenizer, exported.spec, profile)
        for number, feed in enumerate(feeds):
            arrays |= {f"{number}.in.{name}": array for name, array in feed.items()}
            answers = reference.run(feed)
            arrays |= {f"{number}.out.{name}": array for name, array in answers.items()}
        np.savez(folder / _ANSWERS, **arrays)
        return {"batches": len(feeds)}

    fields = {
        **export_fields(context),
        "profile": {axis: list(sizes) for axis, sizes in profile.axes.items()},
        "code": code_digest(REFERENCE),
    }
    product = context.runner.run(context.key("reference", fields), "ask the PyTorch model", make)
    exported.reference = None
    return product


def read_proof(answers: Product, exported: ExportedModel) -> Proof:
    """The proof that engines are held to."""
    from ..checks.proof import Proof

    feeds: list[dict[str, Array]] = [{} for _ in range(answers.facts["batches"])]
    expected: list[dict[str, Array]] = [{} for _ in feeds]
    with np.load(answers.path(_ANSWERS), allow_pickle=False) as file:
        for entry in file.files:
            number, side, name = entry.split(".", 2)
            (feeds if side == "in" else expected)[int(number)][name] = file[entry]
    return Proof(feeds, expected, exported.outputs)
