"""What ``engine.json`` says of a plan: sizes, tensors, kernels and memory."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ..base import BuildConfig
from .attention import Decomposed, caches_of, lost_attention
from .facts import PlanFacts
from .kernels import EngineListing, read_listing
from .log import LogLines
from .memory import memory_need
from .profiles import engine_profiles

if TYPE_CHECKING:
    from ...graph.model import Graph
    from ...graph.tensors import ShapeProfile


def plan_facts(
    graph: Graph,
    config: BuildConfig,
    plan: memoryview,
    lines: LogLines,
    decomposed: tuple[Decomposed, ...],
    *,
    gpu_memory: int | None,
) -> dict[str, Any]:
    """What is known of a plan that was just built, but for where and with what.

    Args:
        graph: it was built from.
        config: of the build.
        plan: its bytes.
        lines: the log of the build.
        decomposed: attention nodes without a fused kernel.
        gpu_memory: bytes that it must fit; None for no bound.

    Raises:
        BuildError: when it does not fit.
    """
    listing = read_listing(lines.texts())
    profiles = profiles_of(graph, config)
    silent = "the log of this TensorRT lists no kernels; fusion and precision are not counted"
    caches = caches_of(graph)
    need = memory_need(
        (*graph.inputs, *(spec for spec in graph.outputs if spec.name not in caches)),
        profiles,
        weights=listing.weight_bytes,
        workspace=listing.activation_bytes,
    )
    tight = () if need is None or gpu_memory is None else need.check(gpu_memory)
    return {
        "bytes": plan.nbytes,
        "sha256": hashlib.sha256(plan).hexdigest(),
        "profile": _sizes(config.profile),
        "profiles": [_sizes(profile) for profile in profiles],
        "buckets": list(config.buckets),
        "inputs": PlanFacts.tensors(graph.inputs),
        "outputs": PlanFacts.tensors(graph.outputs),
        "caches": caches,
        "decomposed_attention": [
            {"node": found.node, "reason": found.reason}
            for found in lost_attention(graph, listing, len(profiles), decomposed)
        ],
        "kernels": listing.of_profile(0).summary() if listing.kernels else None,
        "decode_kernels": _decode_kernels(listing, config, profiles),
        "profile_kernels": _kernels(listing, len(profiles)),
        "kernel_list": [kernel.facts() for kernel in listing.kernels],
        "activation_bytes": listing.activation_bytes,
        "weight_bytes": listing.weight_bytes,
        "gpu_memory": None if need is None else need.facts(),
        "warnings": [*lines.warnings, *(() if listing.kernels else (silent,)), *tight],
    }


def profiles_of(graph: Graph, config: BuildConfig) -> tuple[ShapeProfile, ...]:
    """The optimisation profiles of a plan."""
    caches = tuple(caches_of(graph).values())
    return engine_profiles(config.profiles, config.profile, graph.inputs, caches)


def _kernels(listing: EngineListing, profiles: int) -> list[dict[str, Any]]:
    """Of each profile; empty when the log lists none."""
    listed = range(profiles) if listing.kernels else ()
    return [listing.of_profile(index).summary() for index in listed]


def _decode_kernels(
    listing: EngineListing, config: BuildConfig, profiles: tuple[ShapeProfile, ...]
) -> dict[str, Any] | None:
    """Of the profile that a decoder has beyond those asked for."""
    last = len(profiles) - 1
    return listing.of_profile(last).summary() if last >= max(1, len(config.profiles)) else None


def _sizes(shapes: ShapeProfile) -> dict[str, list[int]]:
    return {name: list(sizes) for name, sizes in shapes.axes.items()}
