"""task.json: round trip, defaults and a named key for every fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fuselage.engines.text.task import TASK_FILE, TASKS, TaskSpec, activation_of
from fuselage.errors import BundleError

EMBEDDING = TaskSpec(
    task="embedding",
    inputs=("input_ids", "attention_mask"),
    outputs=("sentence_embedding",),
    max_tokens=256,
    dimension=384,
    pooling="mean",
    normalized=False,
    prompts={"query": "query: "},
    default_prompt="query",
)
NEEDED: dict[str, dict[str, Any]] = {
    "embedding": {"dimension": 8},
    "feature-extraction": {},
    "sequence-classification": {"labels": ["a", "b"], "activation": "sigmoid"},
    "token-classification": {"labels": ["O"]},
    "question-answering": {"outputs": ["start_logits", "end_logits"]},
    "fill-mask": {"mask_token": "[MASK]", "mask_token_id": 4},
}


def document(task: str, **changes: Any) -> dict[str, Any]:
    base = {
        "schema": 1,
        "task": task,
        "inputs": ["input_ids"],
        "outputs": ["out"],
        "max_tokens": 64,
    }
    return base | NEEDED[task] | changes


@pytest.mark.parametrize("task", TASKS)
def test_round_trip_through_a_file(tmp_path: Path, task: str) -> None:
    spec = TaskSpec.from_dict(document(task, padding_side="left", unk_token_id=0))
    path = tmp_path / TASK_FILE
    path.write_text(spec.to_json(), encoding="utf-8")
    assert TaskSpec.load(path) == spec
    assert spec.padding_side == "left"
    assert spec.unk_token_id == 0


def test_json_holds_what_differs_from_the_defaults() -> None:
    assert json.loads(EMBEDDING.to_json()) == {
        "schema": 1,
        "task": "embedding",
        "inputs": ["input_ids", "attention_mask"],
        "outputs": ["sentence_embedding"],
        "max_tokens": 256,
        "dimension": 384,
        "pooling": "mean",
        "normalized": False,
        "prompts": {"query": "query: "},
        "default_prompt": "query",
    }
    assert TaskSpec.from_dict(json.loads(EMBEDDING.to_json())) == EMBEDDING


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("embedding", {"task": "chat"}, "key 'task': expected one of .*got 'chat'"),
        ("embedding", {"task": ["embedding"]}, "key 'task': expected one of"),
        ("embedding", {"inputs": ["position_ids"]}, "key 'inputs': expected distinct names"),
        ("embedding", {"inputs": ["attention_mask"]}, "key 'inputs': .*'input_ids'"),
        ("embedding", {"inputs": ["input_ids"] * 2}, "key 'inputs': expected distinct"),
        ("embedding", {"inputs": "input_ids"}, "key 'inputs': .* got 'input_ids'"),
        ("embedding", {"outputs": []}, "key 'outputs': expected at least one name"),
        ("embedding", {"outputs": [1]}, "key 'outputs': expected at least one name"),
        ("embedding", {"max_tokens": 0}, "key 'max_tokens': expected an integer >= 1, got 0"),
        ("embedding", {"max_tokens": True}, "key 'max_tokens': .* got True"),
        ("embedding", {"max_tokens": 1e30}, "key 'max_tokens': .* got 1e"),
        ("embedding", {"pad_token_id": -1}, "key 'pad_token_id': expected a token id"),
        ("embedding", {"pad_token_id": None}, "key 'pad_token_id': expected a token id"),
        ("embedding", {"pad_token_type_id": "0"}, "key 'pad_token_type_id': expected a token id"),
        ("embedding", {"padding_side": "both"}, "key 'padding_side': expected one of"),
        ("embedding", {"truncation_side": 1}, "key 'truncation_side': expected one of"),
        ("embedding", {"lowercase": 1}, "key 'lowercase': expected true or false"),
        ("embedding", {"clean_up_spaces": None}, "key 'clean_up_spaces': expected true or false"),
        ("embedding", {"cls_token_id": 1.5}, "key 'cls_token_id': expected a token id"),
        ("embedding", {"unk_token_id": "[UNK]"}, "key 'unk_token_id': expected a token id"),
        ("embedding", {"dimension": None}, "key 'dimension': expected a value for the task"),
        ("embedding", {"dimension": 0}, "key 'dimension': expected an integer >= 1 or null"),
        ("embedding", {"pooling": "max"}, "key 'pooling': expected one of"),
        ("embedding", {"normalized": "yes"}, "key 'normalized': expected true, false or null"),
        ("embedding", {"prompts": {"a": 1}}, "key 'prompts': expected an object of strings"),
        ("embedding", {"default_prompt": "q"}, r"key 'default_prompt': expected one of \[\]"),
        ("embedding", {"schema": 2}, "key 'schema': expected 1, got 2"),
        ("embedding", {"schema": None}, "key 'schema': expected 1, got None"),
        ("embedding", {"sizes": 1}, "unknown key 'sizes'; known are"),
        ("sequence-classification", {"labels": []}, "key 'labels': expected at least one label"),
        ("sequence-classification", {"labels": ["a", 1]}, "key 'labels': expected a list of"),
        ("sequence-classification", {"activation": "relu"}, "key 'activation': expected one of"),
        ("token-classification", {"labels": []}, "key 'labels': expected at least one label"),
        ("question-answering", {"outputs": ["one"]}, "key 'outputs': expected the start and"),
        ("fill-mask", {"mask_token": None}, "key 'mask_token': expected a value for the task"),
        ("fill-mask", {"mask_token_id": None}, "key 'mask_token_id': expected a value"),
        ("fill-mask", {"mask_token": 5}, "key 'mask_token': expected a string or null"),
    ],
)
def test_unusable_value_names_its_key(task: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=rf"^task\.json: .*{message}"):
        TaskSpec.from_dict(document(task) | changes)


@pytest.mark.parametrize("key", ["task", "inputs", "outputs", "max_tokens"])
def test_missing_key_is_named(key: str) -> None:
    values = document("embedding")
    del values[key]
    with pytest.raises(BundleError, match=f"the key '{key}' is missing"):
        TaskSpec.from_dict(values)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b'"text"'])
def test_unreadable_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / TASK_FILE
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"task\.json: expected a (readable JSON file|JSON obj)"):
        TaskSpec.load(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"task\.json: expected a readable JSON file"):
        TaskSpec.load(tmp_path / TASK_FILE)


@pytest.mark.parametrize(
    ("problem", "labels", "expected"),
    [
        (None, 1, "sigmoid"),
        (None, 2, "softmax"),
        ("single_label_classification", 3, "softmax"),
        ("single_label_classification", 1, "sigmoid"),
        ("multi_label_classification", 3, "sigmoid"),
        ("regression", 1, "none"),
        ("regression", 3, "none"),
    ],
)
def test_activation_by_the_rule_of_transformers(
    problem: str | None, labels: int, expected: str
) -> None:
    assert activation_of(problem, labels) == expected
