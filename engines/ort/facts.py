"""``engine.json`` of an ONNX Runtime engine: what was built, and for which machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import BundleError
from ...graph.tensors import TensorSpec
from .. import host
from ..base import ENGINE_FACTS
from ..mismatch import Mismatch
from .session import DISABLED_OPTIMIZERS, Provider, runtime_version


def write_facts(
    folder: Path, model: Path, *, target: str, provider: Provider, threads: int, seconds: float
) -> dict[str, Any]:
    """Describe the engine in ``folder`` and write ``engine.json`` there.

    Args:
        folder: holds the engine's files and nothing else.
        model: the optimised graph in it.
        target: for example ``ort-cpu``.
        provider: where it runs.
        threads: intra-op threads it was built with.
        seconds: wall-clock time of optimising and saving.

    Returns:
        What was written.
    """
    from ...graph.model import Graph

    saved, cpu = Graph.load(model), host.cpu()
    facts = {
        "target": target,
        "provider": provider.name,
        "package": "onnxruntime",
        "package_version": runtime_version(),
        "cpu": {"model": cpu.model, "arch": cpu.arch, "flags": list(cpu.flags)},
        "threads": threads,
        "disabled_optimizers": list(DISABLED_OPTIMIZERS),
        "nodes": saved.op_counts,
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "build_seconds": round(seconds, 3),
        "inputs": [_spec_json(spec) for spec in saved.inputs],
        "outputs": [_spec_json(spec) for spec in saved.outputs],
    }
    text = json.dumps(facts, indent=2, sort_keys=True)
    (folder / ENGINE_FACTS).write_text(text + "\n", encoding="utf-8")
    return facts


def _spec_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "dims": list(spec.dims)}


def read_facts(folder: Path, target: str) -> dict[str, Any]:
    """Read ``engine.json``.

    Raises:
        BundleError: when it is missing, of another target, or lacks what `difference` compares.
    """
    path = folder / ENGINE_FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        texts = (facts["package_version"], facts["cpu"]["arch"], *facts["cpu"]["flags"])
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a version, an architecture or a flag that is no text")
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}); build the bundle again"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(
            f"{path}: expected the facts of an ONNX Runtime engine, got {error!r}; "
            "build the bundle again"
        ) from error
    if facts.get("target") != target:
        raise BundleError(f"{path}: expected the target {target!r}, got {facts.get('target')!r}")
    return dict(facts)


def differences(facts: Mapping[str, Any]) -> tuple[Mismatch, ...]:
    """Each field in which the engine's machine differs from this one.

    ONNX Runtime warns that a graph optimised at the highest level holds for the same environment:
    the fusions and layouts it chose depend on its version and on the CPU's instructions.
    """
    cpu = host.cpu()
    built_for = {**facts["cpu"], "version": facts["package_version"]}
    fields = (
        ("ONNX Runtime version", "version", runtime_version()),
        ("CPU architecture", "arch", cpu.arch),
        ("set of CPU flags", "flags", list(cpu.flags)),
    )
    return tuple(
        Mismatch(name, _plain(built_for[field]), _plain(here))
        for name, field, here in fields
        if built_for[field] != here
    )


def difference(facts: Mapping[str, Any]) -> str | None:
    """The first field in which the engine's machine differs from this one, None when none does."""
    for found in differences(facts):
        return f"{found.field} differs: built for {found.expected}, here is {found.got}"
    return None


def _plain(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)
