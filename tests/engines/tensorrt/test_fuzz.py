"""A damaged folder never crashes the loader: it opens and answers, or our errors refuse it."""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fuselage.engines.base import LoadOptions
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.errors import BundleError, DeviceError, FeedError

JUNK: tuple[Any, ...] = (
    None, -1, 0, 1 << 70, 1e400, -0.5, float("nan"), True, "", "x", "mask", "\ud800", [], {}, [[]],
    [3, 2, 1], [1, 2, 3], {"batch": [1, 2]}, "float32", "complex128", ["SM89"],
)  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree of JSON, leaves and branches."""
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, value in inner:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


def damaged(content: dict[str, Any], chance: random.Random) -> bytes:
    """The text of engine.json with one to three faults in its values, or in its bytes."""
    tree = copy.deepcopy(content)
    for _ in range(chance.randint(1, 3)):
        *parents, last = chance.choice(places(tree))
        node = tree
        for key in parents:
            node = node[key]
        if chance.random() < 0.25:
            del node[last]
        else:
            node[last] = copy.deepcopy(chance.choice(JUNK))
        if not places(tree):
            break
    text = json.dumps(tree).encode()
    if chance.random() < 0.2:
        position = chance.randrange(len(text))
        text = text[:position] + bytes([chance.randrange(256)]) + text[position + 1 :]
    return text


@pytest.mark.parametrize("seed", range(2))
def test_1000_damaged_folders(
    rigs: ModuleType,
    fakes: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    rig = rigs.Rig(fakes, "tensorrt_rtx-1.7.1.116")
    rig.content |= {
        "caches": {},
        "built_on": {"gpu": "NVIDIA L4", "compute_capability": "SM89", "driver": "13.0"},
    }
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", rig.trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", rig.cuda)
    backend, chance = TensorRtBackend.of("tensorrt-rtx"), random.Random(seed)
    fed, outcomes = rig.feeds(2, 3), {"answered": 0, "refused": 0}
    for _ in range(1000):
        folder = rig.folder(tmp_path)
        (folder / "engine.json").write_bytes(damaged(rig.content, chance))
        if chance.random() < 0.1:
            (folder / "engine.plan").write_bytes(chance.randbytes(chance.choice((0, 11, 500))))
        try:
            with backend.load(folder, LoadOptions()) as engine:
                rig.compare(engine.run(fed), fed)
            outcomes["answered"] += 1
        except (BundleError, DeviceError, FeedError):
            outcomes["refused"] += 1
    assert rig.cuda.leaks() == {}
    assert outcomes["refused"] > 500
    assert outcomes["answered"] > 20, "some damage is harmless"
