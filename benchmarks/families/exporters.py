"""Export a family the ways its users do: two exporters, two spellings of attention."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from .models import SMALL, Attention, Family, Feeds, Traceable, Width, make

Exporter = Literal["dynamo", "legacy"]


class Spelling(NamedTuple):
    """How a graph was written.

    Attributes:
        exporter: ``dynamo`` (torch.export) or ``legacy`` (TorchScript).
        attention: what transformers was told to call.
        opset: that was asked for; None is the exporter's default.
    """

    exporter: Exporter
    attention: Attention
    opset: int | None = None

    def __str__(self) -> str:
        """For example ``dynamo-sdpa`` or ``dynamo-sdpa-23``."""
        name = f"{self.exporter}-{self.attention}"
        return name if self.opset is None else f"{name}-{self.opset}"


SPELLINGS = (
    Spelling("dynamo", "sdpa"),
    Spelling("dynamo", "eager"),
    Spelling("legacy", "sdpa"),
    Spelling("legacy", "eager"),
)
"""The columns of the coverage table."""


class CannotExportError(Exception):
    """The exporter, or the model in transformers, does not manage this spelling."""


def export(family: Family, spelling: Spelling, path: Path, width: Width = SMALL) -> Traceable:
    """Write a family as ``path`` and return the module it was traced from.

    Raises:
        CannotExportError: with the first line of what the exporter said.
    """
    try:
        traced = make(family, spelling.attention, width)
    except ValueError as error:  # transformers: no sdpa for this family
        raise CannotExportError(_first_line(error)) from error
    example = traced.feeds(2, 9, past=5, target=6)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch").setLevel(logging.CRITICAL)
        try:
            _EXPORT[spelling.exporter](traced, example, spelling.opset, path)
        except Exception as error:  # exporters raise whatever the traced code raises
            raise CannotExportError(_first_line(error.__cause__ or error)) from error
    traced.module.eval()  # the legacy exporter leaves it in training mode
    return traced


def _dynamo(traced: Traceable, example: Feeds, opset: int | None, path: Path) -> None:
    axes: list[Any] = [
        dict.fromkeys(_axes(traced, name), torch.export.Dim.DYNAMIC) for name in example
    ]
    if traced.cache is not None:
        axes = [*axes[:2], tuple(axes[2:])]
    program = torch.onnx.export(
        traced.module,
        tuple(example.values()),
        input_names=list(example),
        output_names=list(traced.outputs),
        dynamic_shapes=tuple(axes),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path)


def _legacy(traced: Traceable, example: Feeds, opset: int | None, path: Path) -> None:
    torch.onnx.export(
        traced.module,
        tuple(example.values()),
        str(path),
        input_names=list(example),
        output_names=list(traced.outputs),
        dynamic_axes={
            **{name: _axes(traced, name) for name in example},
            **{name: {0: "batch"} for name in traced.outputs},
        },
        opset_version=opset or 17,
        dynamo=False,
    )


_EXPORT = {"dynamo": _dynamo, "legacy": _legacy}


def _axes(traced: Traceable, name: str) -> dict[int, str]:
    if name == "pixel_values":
        return {0: "batch"}
    if name.startswith("past_"):
        return {0: "batch", 2: "past"}
    if name == "decoder_input_ids":
        return {0: "batch", 1: "target"}
    total = name == "attention_mask" and traced.cache is not None
    return {0: "batch", 1: "total" if total else "sequence"}


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]
