"""What a text runtime must know about its engine, kept as ``task.json`` in every bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ...errors import BundleError

TASK_FILE = "task.json"
SCHEMA = 1

Task = Literal[
    "embedding",
    "feature-extraction",
    "sequence-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
]
Activation = Literal["softmax", "sigmoid", "none"]
Side = Literal["right", "left"]

TASKS: tuple[Task, ...] = (
    "embedding",
    "feature-extraction",
    "sequence-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
)
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
"""The inputs a text runtime can fill, all int64 [batch, sequence]."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """How text becomes feeds and how the engine's outputs become answers.

    Attributes:
        task: decides which runtime answers.
        inputs: the engine's inputs, a subset of `INPUT_NAMES`; name token_type_ids only when the
            model's own tokenizer returns them.
        outputs: the engine's outputs, the one the runtime reads first. Embedding: the sentence
            vector [batch, dimension]. Feature extraction: hidden states [batch, sequence, hidden].
            Sequence classification: logits [batch, labels]. Token classification: logits
            [batch, sequence, labels]. Question answering: start logits, then end logits, both
            [batch, sequence]. Fill-mask: logits [batch, sequence, vocabulary].
        max_tokens: longest sequence, special tokens included; longer texts are cut. For a
            sentence-transformers model its ``max_seq_length``, else the smaller of the tokenizer's
            ``model_max_length`` and the positions the model has.
        pad_token_id: fills input_ids.
        pad_token_type_id: fills token_type_ids.
        padding_side: where the padding goes.
        truncation_side: which end of a long text is cut.
        lowercase: the text is lowered before the tokenizer sees it (``do_lower_case`` of
            sentence_bert_config.json; not the tokenizer's own normalizer).
        clean_up_spaces: decoded text loses the blanks before punctuation and in contractions
            (``clean_up_tokenization_spaces`` of the tokenizer).
        cls_token_id: question answering reads "no answer" there; None when there is none.
        unk_token_id: token classification shows the source text instead; None when there is none.
        dimension: embedding: size of a vector.
        pooling: embedding: how the graph pools, for information; the graph does it.
        normalized: embedding: whether the graph ends in an L2 norm, for information.
        prompts: embedding: prompt name -> text put before every input.
        default_prompt: embedding: name of the prompt used when the caller names none.
        labels: classification: label of each id, in order.
        activation: sequence classification: logits to scores, see `activation_of`.
        mask_token: fill-mask: the token to fill in.
        mask_token_id: fill-mask: its id.

    Raises:
        BundleError: naming the key whose value is unusable.
    """

    task: Task
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    max_tokens: int
    pad_token_id: int = 0
    pad_token_type_id: int = 0
    padding_side: Side = "right"
    truncation_side: Side = "right"
    lowercase: bool = False
    clean_up_spaces: bool = False
    cls_token_id: int | None = None
    unk_token_id: int | None = None
    dimension: int | None = None
    pooling: Literal["mean", "cls"] | None = None
    normalized: bool | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    labels: tuple[str, ...] = ()
    activation: Activation = "softmax"
    mask_token: str | None = None
    mask_token_id: int | None = None

    def __post_init__(self) -> None:
        values = vars(self)
        for key, (is_valid, expected) in _VALUES.items():
            if not is_valid(values[key]):
                raise _bad(key, expected, values[key])
        for key, (is_enough, expected) in _NEEDS[self.task].items():
            if not is_enough(values[key]):
                raise _bad(key, f"{expected} for the task {self.task!r}", values[key])
        if self.default_prompt is not None and self.default_prompt not in self.prompts:
            raise _bad("default_prompt", f"one of {sorted(self.prompts)}", self.default_prompt)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskSpec:
        """Read the object of ``task.json``; lists become tuples, everything is checked.

        Raises:
            BundleError: on an unknown or missing key, another schema, or an unusable value.
        """
        known = {item.name: item for item in fields(cls)}
        if values.get("schema") != SCHEMA:
            raise _bad("schema", f"{SCHEMA}", values.get("schema"))
        unknown = sorted(set(values) - set(known) - {"schema"})
        if unknown:
            raise BundleError(f"{TASK_FILE}: unknown key {unknown[0]!r}; known are {sorted(known)}")
        required = {
            name
            for name, item in known.items()
            if item.default is MISSING and item.default_factory is MISSING
        }
        missing = sorted(required - set(values))
        if missing:
            raise BundleError(f"{TASK_FILE}: the key {missing[0]!r} is missing; rebuild the bundle")
        return cls(**{key: _frozen(values[key]) for key in values if key != "schema"})

    @classmethod
    def load(cls, path: Path) -> TaskSpec:
        """Read ``task.json``.

        Raises:
            BundleError: when the file is missing, no JSON object, or holds an unusable value.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{path}: expected a readable JSON file, got: {error}") from error
        if not isinstance(values, dict):
            raise BundleError(f"{path}: expected a JSON object, got {type(values).__name__}")
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """The object of ``task.json``: required keys and those that differ from their default."""
        defaults = {item.name: item.default for item in fields(self)} | {"prompts": {}}
        changed = {key: value for key, value in vars(self).items() if value != defaults[key]}
        return {"schema": SCHEMA} | {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in changed.items()
        }

    def to_json(self) -> str:
        """The text of ``task.json``: the same spec gives the same bytes."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


def activation_of(problem_type: str | None, labels: int) -> Activation:
    """How a sequence classifier's logits become scores, by the rule of transformers.

    Args:
        problem_type: of config.json: regression, single_label_classification,
            multi_label_classification or None.
        labels: number of labels.
    """
    if problem_type == "regression":
        return "none"
    if problem_type == "multi_label_classification" or labels == 1:
        return "sigmoid"
    return "softmax"


_TOO_LARGE = 1 << 31
"""No sequence, vector or vocabulary is as large; a tokenizer counts no further than twice it."""

Check = tuple[Callable[[Any], bool], str]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < _TOO_LARGE


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < _TOO_LARGE


def _is_optional_id(value: object) -> bool:
    return value is None or _is_id(value)


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_names(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(name, str) and name for name in value)


def _is_prompts(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(prompt, str) for name, prompt in value.items()
    )


def _is_inputs(value: Any) -> bool:
    return (
        _is_names(value)
        and len(set(value)) == len(value)
        and "input_ids" in value
        and set(value) <= set(INPUT_NAMES)
    )


def _one_of(*choices: object) -> Check:
    return lambda value: value in choices, f"one of {list(choices)}"


_ID = (_is_id, "a token id (an integer >= 0)")
_OPTIONAL_ID = (_is_optional_id, "a token id (an integer >= 0) or null")
_FLAG = (_is_flag, "true or false")
_OPTIONAL_TEXT = (lambda value: value is None or isinstance(value, str), "a string or null")

_VALUES: Mapping[str, Check] = {
    "task": _one_of(*TASKS),
    "inputs": (_is_inputs, f"distinct names of {list(INPUT_NAMES)} with 'input_ids'"),
    "outputs": (lambda value: _is_names(value) and len(value) > 0, "at least one name"),
    "max_tokens": (_is_count, "an integer >= 1"),
    "pad_token_id": _ID,
    "pad_token_type_id": _ID,
    "padding_side": _one_of("right", "left"),
    "truncation_side": _one_of("right", "left"),
    "lowercase": _FLAG,
    "clean_up_spaces": _FLAG,
    "cls_token_id": _OPTIONAL_ID,
    "unk_token_id": _OPTIONAL_ID,
    "dimension": (lambda value: value is None or _is_count(value), "an integer >= 1 or null"),
    "pooling": _one_of("mean", "cls", None),
    "normalized": (lambda value: value is None or _is_flag(value), "true, false or null"),
    "prompts": (_is_prompts, "an object of strings"),
    "default_prompt": _OPTIONAL_TEXT,
    "labels": (_is_names, "a list of non-empty strings"),
    "activation": _one_of("softmax", "sigmoid", "none"),
    "mask_token": _OPTIONAL_TEXT,
    "mask_token_id": _OPTIONAL_ID,
}

_GIVEN = (lambda value: value is not None, "a value")
_LABELS = {"labels": (lambda value: len(value) > 0, "at least one label")}
_NEEDS: Mapping[Task, Mapping[str, Check]] = {
    "embedding": {"dimension": _GIVEN},
    "feature-extraction": {},
    "sequence-classification": _LABELS,
    "token-classification": _LABELS,
    "question-answering": {
        "outputs": (lambda value: len(value) >= 2, "the start and the end logits")
    },
    "fill-mask": {"mask_token": _GIVEN, "mask_token_id": _GIVEN},
}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _bad(key: str, expected: str, value: object) -> BundleError:
    return BundleError(f"{TASK_FILE}: key {key!r}: expected {expected}, got {value!r}")
