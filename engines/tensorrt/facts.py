"""The part of ``engine.json`` that running a plan needs, read back with checks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ...errors import BundleError, FeedError
from ...graph.tensors import ShapeProfile, TensorSpec
from .weights.mode import WeightMode
from .weights.table import WeightEntry

_FAULTS = (ValueError, KeyError, TypeError, AttributeError, RecursionError, FeedError)
"""What reading a text of another form ends in."""


@dataclass(frozen=True, kw_only=True)
class BuildMachine:
    """What a plan that was tuned on a GPU depends on.

    Attributes:
        gpu: name, for example ``NVIDIA H200``.
        compute_capability: for example ``SM90``.
        driver: newest CUDA version the driver serves, for example ``13.0``.
    """

    gpu: str
    compute_capability: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class PlanFacts:
    """What a plan takes, gives and was compiled for.

    Attributes:
        target: ``tensorrt`` or ``tensorrt-rtx``.
        package_version: version of the package that compiled it.
        compute_capabilities: names such as ``SM89``; empty when compiled for one local GPU.
        plan_bytes: size of the plan.
        inputs: in graph order.
        outputs: in graph order.
        profile: sizes of the dynamic axes it accepts.
        profiles: the optimisation profiles it was compiled with, in their order.
        buckets: lengths that texts are best padded to, ascending; empty when there are none.
        activation_bytes: GPU memory that one lane computes in; None when the build did not say.
        weight_bytes: GPU memory of the weights; None when the build did not say.
        caches: outputs that are inputs written in place, and those inputs.
        built_on: the GPU and driver it was tuned on; None when it was compiled without a GPU.
        mode: what may happen to its weights.
        table: where the weights of a plan without them are.
    """

    target: str
    package_version: str
    compute_capabilities: tuple[str, ...]
    plan_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profile: ShapeProfile
    profiles: tuple[ShapeProfile, ...]
    buckets: tuple[int, ...] = ()
    activation_bytes: int | None = None
    weight_bytes: int | None = None
    caches: Mapping[str, str] = field(default_factory=dict)
    built_on: BuildMachine | None = None
    mode: WeightMode = field(default_factory=WeightMode)
    table: tuple[WeightEntry, ...] = ()

    @classmethod
    def read(cls, path: Path, target: str) -> PlanFacts:
        """Read ``engine.json``.

        Raises:
            BundleError: when it is missing, damaged or of another target.
        """
        try:
            facts = cls.parse(json.loads(path.read_bytes()))
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}); rebuild") from error
        except _FAULTS as error:
            raise BundleError(
                f"{path}: expected the facts of a TensorRT engine, got something else "
                f"({type(error).__name__}: {error}); rebuild the bundle"
            ) from error
        if facts.target != target:
            raise BundleError(f"{path}: expected the target {target!r}, got {facts.target!r}")
        return facts

    @classmethod
    def parse(cls, facts: Mapping[str, Any]) -> PlanFacts:
        """Take what is needed from the content of ``engine.json``.

        Raises:
            KeyError, TypeError, ValueError, FeedError: when the content has another form.
        """
        profile = _profile(facts["profile"])
        inputs, outputs = tuple(map(_spec, facts["inputs"])), tuple(map(_spec, facts["outputs"]))
        return cls(
            target=_text(facts["target"]),
            package_version=_text(facts["package_version"]),
            compute_capabilities=tuple(map(_text, facts["compute_capabilities"])),
            plan_bytes=_whole(facts["bytes"]),
            inputs=inputs,
            outputs=outputs,
            profile=profile,
            profiles=tuple(map(_profile, facts.get("profiles", ()))) or (profile,),
            buckets=_buckets(facts.get("buckets", ())),
            activation_bytes=_bytes(facts.get("activation_bytes")),
            weight_bytes=_bytes(facts.get("weight_bytes")),
            built_on=_machine(facts.get("built_on")),
            caches=_caches(facts.get("caches", {}), inputs, outputs),
            mode=WeightMode.parse(facts.get("weights", {})),
            table=tuple(map(WeightEntry.parse, facts.get("weight_table", ()))),
        )

    @staticmethod
    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        """Specs as ``engine.json`` holds them: name, dtype, dims."""
        return [{"name": s.name, "dtype": s.dtype, "dims": list(s.dims)} for s in specs]

    def read_plan(self, path: Path) -> bytes:
        """Read the plan.

        Raises:
            BundleError: when it is missing or of another size; its sha256 is the bundle's concern.
        """
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}); rebuild") from error
        if len(plan) != self.plan_bytes:
            raise BundleError(
                f"{path}: expected {self.plan_bytes:,} bytes, got {len(plan):,}; the file is "
                "damaged, copy the bundle again or rebuild it"
            )
        return plan


def _spec(entry: Mapping[str, Any]) -> TensorSpec:
    dims = tuple(dim if isinstance(dim, str) else _whole(dim) for dim in entry["dims"])
    return TensorSpec(_text(entry["name"]), _text(entry["dtype"]), dims)


def _caches(
    entry: Mapping[str, str], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> dict[str, str]:
    caches = {_text(present): _text(past) for present, past in entry.items()}
    unknown = set(caches) - {spec.name for spec in outputs}
    unknown |= set(caches.values()) - {spec.name for spec in inputs}
    if unknown:
        raise ValueError(f"caches name {sorted(unknown)}, which are no tensors of the engine")
    return caches


def _machine(entry: Mapping[str, str] | None) -> BuildMachine | None:
    if entry is None:
        return None
    machine = BuildMachine(**{item.name: _text(entry[item.name]) for item in fields(BuildMachine)})
    if not re.fullmatch(r"\d{1,4}\.\d{1,4}", machine.driver):
        raise ValueError(f"driver: expected a version of CUDA such as 13.0, got {machine.driver!r}")
    return machine


def _profile(axes: Mapping[str, list[int]]) -> ShapeProfile:
    return ShapeProfile({_text(name): _range(sizes) for name, sizes in axes.items()})


def _range(sizes: list[int]) -> tuple[int, int, int]:
    low, best, high = map(_whole, sizes)
    return low, best, high


def _buckets(entry: list[int]) -> tuple[int, ...]:
    buckets = tuple(map(_whole, entry))
    if list(buckets) != sorted(set(buckets)) or min(buckets, default=1) < 1:
        raise ValueError(f"buckets: expected lengths in ascending order, got {list(buckets)!r:.40}")
    return buckets


def _bytes(value: Any) -> int | None:
    return None if value is None else _whole(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, got {value!r:.40}")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"expected a whole number, got {value!r:.40}")
    return value
