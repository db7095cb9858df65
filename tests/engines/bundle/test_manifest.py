from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fuselage.engines.manifest import FileEntry, Manifest, check_name
from fuselage.engines.strict_json import canonical_json, json_digest
from fuselage.errors import BundleError

SHA = "0123456789abcdef" * 4


@pytest.fixture
def whole(manifest: Callable[..., Manifest]) -> Manifest:
    files = {"ort-cpu/model.onnx": FileEntry(sha256=SHA, bytes=12)}
    return replace(manifest(), files=files, calibration="c" * 64)


def sealed(body: dict[str, Any]) -> str:
    """The text of an edited manifest with digests that fit."""
    if isinstance(body.get("recipe"), dict):
        body["recipe_digest"] = json_digest(body["recipe"])
    body.pop("digest", None)
    return canonical_json({**body, "digest": json_digest(body)})


def test_round_trip(whole: Manifest) -> None:
    again = Manifest.from_json(whole.to_json())
    assert again == whole
    assert again.to_json() == whole.to_json()


def test_text_is_canonical(whole: Manifest) -> None:
    text = whole.to_json()
    body = json.loads(text)
    assert text == json.dumps(body, indent=2, sort_keys=True) + "\n"
    assert text.isascii()
    assert list(body) == [
        "calibration",
        "digest",
        "files",
        "model",
        "passes",
        "recipe",
        "recipe_digest",
        "schema",
        "targets",
        "task",
        "verification",
        "weights",
    ]
    assert body["schema"] == 1
    assert body["targets"]["ort-cpu"]["profile"]["batch"] == [1, 4, 8]
    assert body["digest"] == json_digest({k: v for k, v in body.items() if k != "digest"})


def test_recipe_digest_ignores_order_and_sees_values(whole: Manifest) -> None:
    turned = replace(whole, recipe=dict(reversed(whole.recipe.items())))
    other = replace(whole, recipe={**whole.recipe, "max_drop": 0.25})
    assert turned.recipe_digest == whole.recipe_digest
    assert other.recipe_digest != whole.recipe_digest


def test_every_changed_byte_is_found(whole: Manifest) -> None:
    content = whole.to_json().encode()
    missed = []
    for position in range(len(content)):
        for flip in (0x01, 0x20, 0x2A):  # 0x2A turns a line end into a space
            changed = bytearray(content)
            changed[position] ^= flip
            try:
                Manifest.from_json(changed.decode("latin-1"))
            except BundleError:
                continue
            missed.append((position, flip))
    assert missed == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(schema=2), "schema 2 is not known, this fuselage reads schema 1"),
        (lambda b: b.update(schema="1"), r"'schema' must be an integer, got '1' \(str\)"),
        (lambda b: b.update(schema=True), "'schema' must be an integer, got True"),
        (lambda b: b.pop("schema"), "the key 'schema' is missing"),
        (lambda b: b.pop("task"), "the key 'task' is missing"),
        (lambda b: b.update(weights="stolen"), r"'weights' must be one of \['pretrained'"),
        (lambda b: b.update(more=1), "unknown key 'more'"),
        (lambda b: b["model"].pop("digest"), "model: the key 'digest' is missing"),
        (lambda b: b["model"].update(revision=3), "model: 'revision' must be a string, got 3"),
        (lambda b: b["model"].pop("revision"), "model: the key 'revision' is missing"),
        (lambda b: b["model"].update(extra=3), "model: unknown key 'extra'"),
        (lambda b: b.update(recipe=[]), "'recipe' must be an object"),
        (lambda b: b["passes"].update({"ort-cpu": "x"}), "passes: 'ort-cpu' must be a list"),
        (lambda b: b["passes"].update({"ort-cpu": [1]}), "passes: ort-cpu: '0' must be a string"),
        (lambda b: b.update(targets={}), "'targets' is empty"),
        (
            lambda b: b["targets"]["ort-cpu"].pop("precision"),
            "targets: ort-cpu: the key 'precision' is missing",
        ),
        (
            lambda b: b["targets"]["ort-cpu"].update(folder="../up"),
            "ort-cpu: '../up' is not a plain relative path",
        ),
        (
            lambda b: b["targets"]["ort-cpu"].update(folder="graph"),
            "ort-cpu: 'folder' must name one folder of files of its own, got 'graph'",
        ),
        (
            lambda b: b["targets"].update({"ort-cuda": b["targets"]["ort-cpu"]}),
            "'folder' must name one folder of files of its own",
        ),
        (
            lambda b: b["targets"]["ort-cpu"]["profile"].update(batch=[1, 4]),
            r"profile: 'batch' must be \[minimum, optimum, maximum\], got \[1, 4\]",
        ),
        (
            lambda b: b["targets"]["ort-cpu"]["profile"].update(batch=[1, 9, 8]),
            r"'batch' must be \[minimum, optimum, maximum\]",
        ),
        (
            lambda b: b["targets"]["ort-cpu"]["versions"].update(x=1),
            "versions: 'x' must be a string",
        ),
        (
            lambda b: b["files"]["ort-cpu/model.onnx"].update(sha256="A" * 64),
            "model.onnx: 'sha256' must be 64 hexadecimal digits",
        ),
        (
            lambda b: b["files"]["ort-cpu/model.onnx"].update(bytes=-1),
            "model.onnx: 'bytes' must be at least 0",
        ),
        (
            lambda b: b["files"]["ort-cpu/model.onnx"].update(bytes=1.0),
            "model.onnx: 'bytes' must be an integer",
        ),
        (
            lambda b: b["files"].update({"manifest.json": {"sha256": SHA, "bytes": 1}}),
            "the manifest cannot list itself",
        ),
        (lambda b: b.update(calibration=7), "'calibration' must be a string"),
        (lambda b: b.update(verification={}), "verification: the key 'passed' is missing"),
        (
            lambda b: b.update(verification={"passed": "yes"}),
            "verification: 'passed' must be true or false",
        ),
    ],
)
def test_the_message_names_the_key(
    change: Callable[[dict[str, Any]], object], message: str, whole: Manifest
) -> None:
    body = json.loads(whole.to_json())
    change(body)
    with pytest.raises(BundleError, match=f"^some/manifest.json.*{message}"):
        Manifest.from_json(sealed(body), "some/manifest.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "expected an object, got list"),
        ("null", "expected an object, got NoneType"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(text)


def test_another_recipe_under_the_old_digest_is_refused(whole: Manifest) -> None:
    body = json.loads(whole.to_json())
    body["recipe"]["precision"] = "int8"
    body.pop("digest")
    text = canonical_json({**body, "digest": json_digest(body)})
    with pytest.raises(BundleError, match="the text is not what was written"):
        Manifest.from_json(text)


def test_a_valid_manifest_in_another_spelling_is_refused(whole: Manifest) -> None:
    text = json.dumps(json.loads(whole.to_json()), sort_keys=True)
    with pytest.raises(BundleError, match="the text is not what was written"):
        Manifest.from_json(text)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_what_json_cannot_hold_is_refused_when_written(value: object, whole: Manifest) -> None:
    with pytest.raises(BundleError, match="expected values JSON can hold"):
        replace(whole, recipe={"x": value}).to_json()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "a//b",
        "./a",
        "a/",
        "a\\b",
        "C:/x",
        "a\0b",
        "a\nb",
        "~/x:y",
        "a*",
    ],
)
def test_paths_that_leave_the_bundle_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match="is not a plain relative path inside the bundle"):
        check_name(name, "bundle")


@pytest.mark.parametrize("name", ["a", "graph/model.onnx", "a/b/c.d", "..a", "ä"])
def test_plain_paths_pass(name: str) -> None:
    assert check_name(name, "bundle") == name
