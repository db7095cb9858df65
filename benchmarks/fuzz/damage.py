"""Damage a bundle as accidents and forgers do: its files, its manifest, and what both say.

A forger seals his work: the manifest is written anew, with hashes and digests that fit, so that the
damage gets past it to what reads the files.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from fuselage.engines.strict_json import canonical_json, json_digest

from .mutations import mutate, mutate_bytes

MANIFEST = "manifest.json"
JSON_FILES = (
    "task.json", "tokenizer.json", "report.json", "calibration.json", "ort-cpu/engine.json",
    "tensorrt-rtx/engine.json",
)  # fmt: skip
MODELS = ("graph/model.onnx", "ort-cpu/model.onnx")
_DEPTHS = (50, 400, 900, 5_000, 100_000)
_BIG = ("9" * 400, "9" * 5_000, "1e400", "-1e-400", str(1 << 63), "NaN", "-Infinity")


@dataclass(frozen=True)
class Scene:
    """Where the damage is done.

    Attributes:
        folder: the bundle.
        outside: a folder beside it that nothing may open.
        chance: decides.
    """

    folder: Path
    outside: Path
    chance: random.Random

    def escapes(self) -> tuple[str, ...]:
        """Paths that lead out of a folder of the bundle."""
        return (
            "../../outside/secret", "../outside/secret", str(self.outside / "secret"),
            "./../../outside/secret", "graph/../../outside/secret", "..", ".", "/", "", "/dev/zero",
            "..\\outside\\secret", "file:///etc/passwd", "link", "a\0b", "\ud800", "C:secret",
        )  # fmt: skip

    def junk(self) -> Any:
        """A value of any type and size."""
        return self.chance.choice(
            (None, -1, 0, 1 << 31, 1 << 70, -0.5, True, "", "x", "\ud800", [], {}, [[]], [3, 2, 1],
             [1, 2], {"a": 1}, {"": []}, "float32", ["SM89"], "é" * 5_000, *self.escapes())
        )  # fmt: skip


def damage(scene: Scene) -> str:
    """Damage a sound bundle; what was done."""
    step = scene.chance.choice(_STEPS)
    done = step(scene)
    forged = step not in _UNSEALED
    if forged and scene.chance.random() < 0.15:
        (scene.folder / MANIFEST).unlink()  # opened on trust, nothing is checked
        return f"{done}, no manifest"
    if forged:
        seal(scene.folder)
    return f"{done}, sealed" if forged else done


def seal(folder: Path) -> None:
    """Write the hashes of the files there are into the manifest, and its digests."""
    body = json.loads((folder / MANIFEST).read_text())
    body["files"] = {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_manifest(folder, body)


def write_manifest(folder: Path, body: dict[str, Any]) -> None:
    """Write a manifest whose digests fit."""
    body = {key: value for key, value in body.items() if key != "digest"}
    if isinstance(body.get("recipe"), dict):
        body["recipe_digest"] = json_digest(body["recipe"])
    (folder / MANIFEST).write_text(canonical_json({**body, "digest": json_digest(body)}))


def _bytes_of_a_file(scene: Scene) -> str:
    path = _any_file(scene)
    path.write_bytes(mutate_bytes(path.read_bytes(), scene.chance))
    return f"bytes of {path.name}"


def _kind_of_a_file(scene: Scene) -> str:
    """What is at its place: nothing, a folder, a pipe, a link out, a link to itself."""
    path, kind = _any_file(scene), scene.chance.randrange(8)
    content = path.read_bytes()
    path.unlink()
    match kind:
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:  # the same content, so that nothing but its place is wrong
            (scene.outside / "copy").write_bytes(content)
            path.symlink_to(scene.outside / "copy")
        case 3:
            path.symlink_to(path.name)
        case 4:
            path.symlink_to("/dev/zero")
        case 5:
            path.write_bytes(content + content)
        case 6:
            path.write_bytes(b"")
        case _:
            pass
    return f"{path.name} becomes of kind {kind}"


def _folder_is_a_link(scene: Scene) -> str:
    name = scene.chance.choice(("graph", "ort-cpu", "tensorrt-rtx"))
    shutil.move(scene.folder / name, scene.outside / name)
    (scene.folder / name).symlink_to(scene.outside / name)
    return f"{name} is a link out"


def _text_of_the_manifest(scene: Scene) -> str:
    path = scene.folder / MANIFEST
    path.write_bytes(_damaged_text(path.read_text(), scene))
    return "text of the manifest"


def _forged_manifest(scene: Scene) -> str:
    body = json.loads((scene.folder / MANIFEST).read_text())
    places = _damage_tree(body, scene)
    if isinstance(body.get("files"), dict) and scene.chance.random() < 0.3:
        secret = scene.outside / "secret"
        digest = hashlib.sha256(b"secret").hexdigest()
        body["files"][scene.chance.choice(scene.escapes())] = {"sha256": digest, "bytes": 6}
        places += f" and {secret.name}"
    write_manifest(scene.folder, body)
    return f"manifest at {places}"


def _values_of_a_json(scene: Scene) -> str:
    path = scene.folder / scene.chance.choice(JSON_FILES)
    tree = json.loads(path.read_text())
    places = _damage_tree(tree, scene)
    path.write_text(json.dumps(tree))
    return f"{path.name} at {places}"


def _text_of_a_json(scene: Scene) -> str:
    path = scene.folder / scene.chance.choice(JSON_FILES)
    path.write_bytes(_damaged_text(path.read_text(), scene))
    return f"text of {path.name}"


def _model(scene: Scene) -> str:
    path = scene.folder / scene.chance.choice(MODELS)
    done, content = mutate(onnx.load(path).SerializeToString(), scene.chance)
    path.write_bytes(content)
    return f"{path.parent.name}/{path.name}: {done}"


def _weights(scene: Scene) -> str:
    """Weights kept elsewhere, or beyond the end of their file."""
    path = scene.folder / scene.chance.choice(MODELS)
    model = onnx.load(path, load_external_data=False)
    tensor = scene.chance.choice(model.graph.initializer)
    size = str(scene.chance.choice((0, 4, 16, 1 << 40, 1 << 63, -1, "x", "9" * 30)))
    offset = str(scene.chance.choice((0, 0, 2, 1 << 62, -8, "x")))
    place = scene.chance.choice((*scene.escapes()[:10], "model.weights", "link", "engine.json"))
    if place == "link":
        (path.parent / "link").symlink_to(scene.outside / "secret")
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", offset), ("length", size)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    return f"{path.parent.name}/{path.name}: weights at {place!r}"


def _plan(scene: Scene) -> str:
    path = scene.folder / "tensorrt-rtx/engine.plan"
    path.write_bytes(mutate_bytes(path.read_bytes(), scene.chance))
    return "plan"


def _any_file(scene: Scene) -> Path:
    files = sorted(path for path in scene.folder.rglob("*") if path.is_file())
    return scene.chance.choice(files)


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, value in inner:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += _places(value, (*path, key))
    return found


def _damage_tree(tree: Any, scene: Scene) -> str:
    done = []
    for _ in range(scene.chance.choice((1, 1, 2, 3))):
        places = _places(tree)
        if not places:
            break
        *parents, last = scene.chance.choice(places)
        node = tree
        for key in parents:
            node = node[key]
        match scene.chance.randrange(6):
            case 0:
                del node[last]
            case 1 if isinstance(node, dict):
                node[str(scene.chance.choice((*scene.escapes(), "x")))] = node.pop(last)
            case 2:
                node[last] = _nested(scene.chance.choice(_DEPTHS[:3]))
            case _:
                node[last] = copy.deepcopy(scene.junk())
        done.append("/".join(map(repr, (*parents, last))))
    return ", ".join(done)


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _damaged_text(text: str, scene: Scene) -> bytes:
    """Keys twice, numbers too large, nesting too deep, or bytes."""
    match scene.chance.randrange(4):
        case 0:
            return mutate_bytes(text.encode(), scene.chance)
        case 1:
            depth = scene.chance.choice(_DEPTHS)
            opening, closing = scene.chance.choice((("[", "]"), ('{"a":', "}")))
            return (opening * depth + "1" + closing * depth).encode()
        case 2:
            digits = [index for index, letter in enumerate(text) if letter.isdigit()]
            at = scene.chance.choice(digits or [0])
            return (text[:at] + scene.chance.choice(_BIG) + text[at + 1 :]).encode()
        case _:
            members = ["}", *(line for line in text.splitlines() if line.strip().endswith(","))]
            twice = scene.chance.choice(members)
            return text.replace("{", "{" + twice if twice != "}" else "{}", 1).encode()


_UNSEALED: tuple[Callable[[Scene], str], ...] = (
    _bytes_of_a_file,
    _kind_of_a_file,
    _folder_is_a_link,
    _text_of_the_manifest,
    _forged_manifest,
)
_STEPS = (
    *_UNSEALED,
    _forged_manifest,
    _values_of_a_json,
    _values_of_a_json,
    _text_of_a_json,
    _model,
    _model,
    _weights,
    _plan,
)
