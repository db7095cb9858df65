"""From what was asked for to work that every candidate takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...engines.text.encoder import TextEncoder
from ...engines.text.task import TaskSpec
from ...errors import FeedError
from ...graph.tensors import TensorSpec
from .candidates import Candidate
from .request import Request
from .texts import TextSource, read_texts
from .work import Shape, Work, check_shape, default_shapes, drawn_work, parse_shapes

_TEXT_SHAPES = (Shape(1), Shape(8))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked of the candidates.

    Attributes:
        works: one a shape.
        reader: tokenizer.json and task of the first candidate that has them.
        source: where texts and token ids come from; empty without a tokenizer.
        notes: what the user should know.
    """

    works: tuple[Work, ...]
    reader: tuple[Path, TaskSpec] | None
    source: str
    notes: tuple[str, ...] = ()


def plan(request: Request, candidates: Sequence[Candidate]) -> Plan:
    """Make the work.

    Raises:
        FeedError: when a shape is none, or a candidate does not take it; both are named.
        FuselageError: as reading the texts does.
    """
    reader = _reader(candidates)
    shapes = _shapes(request, candidates)
    for shape in shapes:
        _check(request, candidates, shape, has_reader=reader is not None)
    text = None if reader is None else _text(request, candidates, reader)
    ids = text.ids() if text else ()
    specs = _union(candidates)
    works = []
    for shape in shapes:
        if shape.sequence is not None or text is None:
            works.append(drawn_work(shape, specs, ids))
        elif request.mode == "pipeline":
            works.append(text.questions(shape))
        else:
            works.append(text.feeds(shape, _least_width(candidates)))
    return Plan(
        works=tuple(works),
        reader=reader,
        source=text.source if text else "",
        notes=_notes(text) if any(shape.sequence is None for shape in shapes) else (),
    )


def _shapes(request: Request, candidates: Sequence[Candidate]) -> tuple[Shape, ...]:
    if request.shapes:
        return parse_shapes(request.shapes)
    if request.mode == "pipeline" or request.texts:
        return _TEXT_SHAPES
    return default_shapes(candidates[0].subject.profile)


def _check(
    request: Request, candidates: Sequence[Candidate], shape: Shape, *, has_reader: bool
) -> None:
    is_pipeline = request.mode == "pipeline"
    if is_pipeline and shape.sequence is not None:
        raise FeedError(
            f"shape {shape}: a pipeline takes texts of their own lengths; expected numbers of "
            "texts such as 1,32"
        )
    if shape.sequence is None and not has_reader:
        raise FeedError(
            f"shape {shape}: texts need a tokenizer, which no candidate has; add a bundle or a "
            "torch: model, or give shapes such as 8x128"
        )
    sizes = {} if is_pipeline else {"batch": shape.batch}
    if shape.sequence is not None:
        sizes["sequence"] = shape.sequence
    for candidate in candidates:
        check_shape(f"shape {shape}: {candidate.name}", candidate.subject.profile, sizes)


def _reader(candidates: Sequence[Candidate]) -> tuple[Path, TaskSpec] | None:
    for candidate in candidates:
        subject = candidate.subject
        if subject.tokenizer is not None and subject.task is not None:
            return subject.tokenizer, subject.task
    return None


def _text(
    request: Request, candidates: Sequence[Candidate], reader: tuple[Path, TaskSpec]
) -> TextSource:
    longest = min((high for _, high in _widths(candidates)), default=None)
    texts, source = read_texts(request.texts, request.columns)
    return TextSource(encoder=TextEncoder(*reader, longest), texts=texts, source=source)


def _notes(text: TextSource | None) -> tuple[str, ...]:
    cut = text.cut() if text else 0
    if text is None or not cut:
        return ()
    return (
        f"{cut} of {len(text.texts)} texts of {text.source} are longer than "
        f"{text.encoder.max_tokens} tokens and were cut",
    )


def _least_width(candidates: Sequence[Candidate]) -> int:
    return max((low for low, _ in _widths(candidates)), default=1)


def _widths(candidates: Sequence[Candidate]) -> list[tuple[int, int]]:
    """Least and most tokens of the candidates that have such."""
    profiles = [candidate.subject.profile for candidate in candidates]
    axes = [profile.axes for profile in profiles if profile and "sequence" in profile.axes]
    return [(found["sequence"][0], found["sequence"][2]) for found in axes]


def _union(candidates: Sequence[Candidate]) -> list[TensorSpec]:
    """Inputs of all candidates; where they differ in dtype, the first has the say."""
    found: dict[str, TensorSpec] = {}
    for candidate in candidates:
        for spec in candidate.subject.inputs:
            found.setdefault(spec.name, spec)
    return list(found.values())
