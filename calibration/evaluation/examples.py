"""Rows to examples of the model's task: what it is asked and what it should answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...engines.text.task import Activation, Task
from ...errors import CalibrationError
from ..metrics.table import Form, check_fits
from .fields import Fields
from .records import EvaluationFile


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What of a model decides how its answers are judged.

    Attributes:
        task: of the model.
        labels: of a classifier, in the order of its ids.
        activation: of a sequence classifier.
    """

    task: Task
    labels: tuple[str, ...] = ()
    activation: Activation = "softmax"

    def form(self, columns: Iterable[str] = ()) -> Form:
        """The form of examples.

        Args:
            columns: of the file; passages to be ranked are told by theirs.

        Raises:
            CalibrationError: when no metric judges the task.
        """
        if self._gives_one_number and {"query", "positive", "negative"} <= set(columns):
            return "rankings"
        if self.task == "sequence-classification":
            if len(self.labels) > 1 and self.activation == "sigmoid":
                raise CalibrationError(
                    "evaluation: several labels of this model may hold at once, which no metric "
                    "here judges; leave --eval out and use --min-cosine"
                )
            return "scores" if len(self.labels) == 1 else "labels"
        if self.task not in _FORMS:
            raise CalibrationError(
                f"evaluation: no metric judges the task {self.task!r}; expected one of "
                f"{', '.join(['sequence-classification', *_FORMS])}; leave --eval out, and use "
                "--min-cosine or --min-sqnr"
            )
        return _FORMS[self.task]

    @property
    def _gives_one_number(self) -> bool:
        is_cross_encoder = self.task == "sequence-classification" and len(self.labels) == 1
        return self.task == "embedding" or is_cross_encoder


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Questions to a model and what it should answer.

    Attributes:
        form: decides which metrics judge the answers.
        inputs: scores and labels: a text or a pair; answers: question and context; entities and
            tokens: a text; rankings: a query and its passages.
        expected: scores: a number; labels: an index; answers: texts of which one is enough;
            entities: a set of (label, begin, end); rankings: how many passages are relevant, which
            come first; tokens: None.
        source: name of the file.
        digest: of its content.
    """

    form: Form
    inputs: tuple[Any, ...] = field(repr=False)
    expected: tuple[Any, ...] = field(repr=False)
    source: str
    digest: str

    def notes(self) -> Iterator[str]:
        """What makes figures on these examples say less than they seem to, one sentence each."""
        count = len(self.inputs)
        repeated = count - len(set(self.inputs))
        if repeated > _MOST_REPEATED * count:
            yield (
                f"evaluation: {repeated} of {count} examples of {self.source} ask what another one "
                "asks; each counts, so the intervals are narrower than they should be"
            )
        if self.form == "labels" and len(set(self.expected)) == 1:
            yield (
                f"evaluation: all {count} examples of {self.source} have the same label, which "
                "says nothing about the others; give examples of every label"
            )


def make_examples(file: EvaluationFile, judged: Judged, metrics: Iterable[str] = ()) -> Examples:
    """Read rows as the model's task needs them.

    Args:
        file: the rows.
        judged: the model.
        metrics: names that must fit.

    Raises:
        CalibrationError: naming file, line and column; or when task and metric do not fit.
    """
    form = judged.form((*file.records[0][1], *file.columns))
    check_fits(metrics, form, judged.task)
    columns = _columns(file, form, needs_pair=judged.task == "embedding")
    read = _READ[form]
    rows = [
        read(Fields(place=place, columns=columns, values=values, labels=judged.labels))
        for place, values in file.records
    ]
    inputs, expected = zip(*rows, strict=True)
    if form == "scores" and len(set(expected)) == 1:
        raise CalibrationError(
            f"{file.source}: expected scores that differ, all {len(expected)} are {expected[0]:g}; "
            "there is no order to agree with"
        )
    return Examples(
        form=form, inputs=inputs, expected=expected, source=file.source, digest=file.digest
    )


_MOST_REPEATED = 0.1
"""Part of the examples; data sets hold some questions twice."""

_FORMS: Mapping[Task, Form] = {
    "embedding": "scores",
    "question-answering": "answers",
    "token-classification": "entities",
    "fill-mask": "tokens",
}

_READ: Mapping[Form, Callable[[Fields], tuple[Any, Any]]] = {
    "scores": lambda row: (row.texts(), row.score()),
    "labels": lambda row: (row.texts(), row.label()),
    "answers": lambda row: ((row.text("question"), row.text("context")), row.answers()),
    "entities": lambda row: row.entities(),
    "rankings": lambda row: row.ranking(),
    "tokens": lambda row: (row.text("text"), None),
}

_TEXTS: tuple[tuple[str, ...], ...] = (
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
    ("text", "pair"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "answer"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "text"),
    ("text",),
    ("sentence",),
)
"""Usual names of a pair's halves, or of a text; the first that are all there."""

_USUAL: Mapping[Form, Mapping[str, tuple[str, ...]]] = {
    "scores": {"score": ("score", "similarity_score", "similarity", "label", "number")},
    "labels": {"label": ("label", "labels", "class", "category", "number")},
    "answers": {
        "question": ("question",),
        "context": ("context",),
        "answers": ("answers", "answer"),
    },
    "entities": {"tokens": ("tokens", "words"), "tags": ("tags", "ner_tags", "labels")},
    "rankings": {"query": ("query",), "positive": ("positive",), "negative": ("negative",)},
    "tokens": {"text": ("text", "sentence")},
}


def _columns(file: EvaluationFile, form: Form, *, needs_pair: bool) -> dict[str, str]:
    """Role to column: what the user says, else the usual names."""
    place, first = file.records[0]
    names = list(first)
    missing = next((name for name in file.columns.values() if name not in names), None)
    if missing is not None:
        raise CalibrationError(f"{place}: there is no column {missing!r}; {_there(names)}")
    columns = dict(file.columns)
    if form in ("scores", "labels") and "text" not in columns:
        columns = _usual_texts(names, needs_pair=needs_pair) | columns
    for role, usual in _USUAL[form].items():
        found = next((name for name in usual if name in names), None)
        if role not in columns and found is not None:
            columns[role] = found
    wanted = [*_USUAL[form]]
    if form in ("scores", "labels"):
        wanted = ["text", *(["pair"] if needs_pair else []), *wanted]
    lacking = [role for role in wanted if role not in columns]
    if lacking:
        raise CalibrationError(
            f"{place}: expected columns for {', '.join(wanted)}, found none for "
            f"{' and '.join(lacking)}; {_there(names)}; say which one it is with "
            f"--data-column {lacking[0]}=NAME (of a build: --eval-column)"
        )
    return columns


def _usual_texts(names: Sequence[str], *, needs_pair: bool) -> dict[str, str]:
    for usual in _TEXTS:
        if all(name in names for name in usual) and (len(usual) == 2 or not needs_pair):
            return dict(zip(("text", "pair"), usual, strict=False))
    return {}


def _there(names: Sequence[str]) -> str:
    return f"its columns are {', '.join(map(repr, names))}"
