"""Landmarks: what the reference holds on its way from inputs to outputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...compiler.checks.widen import widen_bfloat16
from ...errors import VerificationError
from ...graph.model import Graph
from ...graph.tensors import Array, Feeds
from ..subjects.base import Subject, chosen_feeds
from ..subjects.torch_model import TorchSubject
from .inner_values import InnerValues
from .tokens import Matrix, Tokens, frobenius

_LARGEST = 1e30
"""Masks are filled with what no activation reaches; they are no landmarks."""


@dataclass(frozen=True, kw_only=True)
class Landmark:
    """One tensor of the reference.

    Attributes:
        layer: path of the module, or name of the node.
        tensor: the same, or the name of the value.
        array: as the reference holds it; of a text that is by token, [batch, sequence, ...].
        rows: real tokens alone.
        norm: of `rows`, Frobenius.
        by_token: whether `array` begins with batch and sequence.
        different: rows that differ, by their first number.
    """

    layer: str
    tensor: str
    array: Array = field(repr=False)
    rows: Matrix = field(repr=False)
    norm: float
    by_token: bool
    different: int

    @property
    def kind(self) -> str:
        """The layer without its numbers, equal for one place in all layers of a stack."""
        return re.sub(r"\d+", "#", self.layer)


def landmarks(subject: Subject, feeds: Feeds, tokens: Tokens) -> list[Landmark]:
    """What a subject holds on its way, in the order in which it is computed.

    Of a PyTorch model what each module returns, of an ONNX graph every float value. Tensors that
    repeat an earlier one, as dropout and enclosing modules do, are left out.

    Raises:
        VerificationError: when the subject cannot be looked into.
    """
    found: list[Landmark] = []
    for layer, tensor, array in _tensors(subject, feeds):
        mark = _landmark(layer, tensor, array, tokens)
        if mark is not None and not _repeats(mark, found):
            found.append(mark)
    return found


def _tensors(subject: Subject, feeds: Feeds) -> Iterable[tuple[str, str, Array]]:
    fed = chosen_feeds(subject.inputs, feeds, subject.name)
    if isinstance(subject, TorchSubject):
        from ...compiler.checks.activations import module_outputs

        return [(path, path, array) for path, array in module_outputs(subject.reference, fed)]
    path = graph_file(subject)
    if path is None:
        raise VerificationError(f"{subject.name} is closed: no value inside it can be read")
    return _of_graph(path, fed)


def graph_file(subject: Subject) -> Path | None:
    """ONNX file of what the subject computes, else of what it was built from."""
    if subject.graph is not None:
        return subject.graph
    bundle = getattr(subject, "bundle", None)
    return None if bundle is None else bundle.path("graph/model.onnx")


def _of_graph(path: Path, feeds: Feeds) -> Iterator[tuple[str, str, Array]]:
    with InnerValues(widen_bfloat16(Graph.load(path))) as inner:
        for value, array in inner.run(feeds):
            yield inner.name_of(value), value, array


def _landmark(layer: str, tensor: str, array: Array, tokens: Tokens) -> Landmark | None:
    if array.size < 2 or not np.isfinite(array).all() or np.abs(array).max() > _LARGEST:
        return None
    layout = next(tokens.layouts(array.shape))
    rows = tokens.matrix(array, layout)
    norm = frobenius(rows)
    if not norm or (rows == rows.flat[0]).all():
        return None  # a constant says nothing
    laid = np.asarray(layout.apply(array))
    return Landmark(
        layer=layer,
        tensor=tensor,
        array=laid,
        rows=rows,
        norm=norm,
        by_token=layout.by_token,
        different=len(np.unique(rows[:, 0])),
    )


def _repeats(mark: Landmark, found: list[Landmark]) -> bool:
    return any(
        earlier.norm == mark.norm
        and earlier.rows.shape == mark.rows.shape
        and np.array_equal(earlier.rows, mark.rows)
        for earlier in found
    )
