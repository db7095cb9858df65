"""Hold an engine to the PyTorch model and to its graph, and time it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines import host
from ...engines.targets import backend
from ...engines.text.packed_engine import opened
from ...graph.tensors import ShapeProfile
from ..cache.code import code_digest
from ..packing import GraphEngine
from ..progress import Journal
from .context import Context, versions
from .engine import BuiltEngine
from .export import ExportedModel
from .product import Product
from .reference import read_proof

if TYPE_CHECKING:
    from ..checks.proof import Proof, Verdict


@dataclass(frozen=True)
class Finding:
    """What an engine is worth.

    Attributes:
        verdict: how it answers, the facts of a `Verdict`.
        lost: what its graph asks for and it does not have.
        latency: at a few sizes; None when it does not run here.
    """

    verdict: dict[str, Any]
    lost: tuple[str, ...]
    latency: list[dict[str, Any]] | None


def examine(
    context: Context,
    built: BuiltEngine,
    exported: ExportedModel,
    answers: Product,
    profile: ShapeProfile,
) -> Finding:
    """Examine an engine, or find what was said about these very bytes on such a machine.

    Args:
        context: of the build.
        built: the engine.
        exported: the model.
        answers: of the PyTorch model.
        profile: sizes that may be timed.
    """
    lowered = built.lowered
    blocker = backend(built.target).run_blocker()

    def make(folder: Path, journal: Journal) -> dict[str, Any]:
        del folder
        proof = read_proof(answers, exported)
        verdict = (
            _prove_engine(context, proof, built)
            if blocker is None
            else _prove_graph(context, proof, built, blocker, journal)
        )
        return {
            "verdict": asdict(verdict),
            "lost": list(_lost(built)),
            "latency": None if blocker else _latency(context, built, profile),
        }

    fields = {
        "engine": built.product.content,
        "graph": lowered.digest,
        "precision": lowered.precision,
        "profile": {axis: list(sizes) for axis, sizes in profile.axes.items()},
        "reference": answers.content,
        "blocker": blocker,
        "machine": _machine(),
        "threads": context.request.threads,
        "versions": versions("numpy", "onnxruntime", built.target),
        "code": code_digest(),
    }
    key = context.key("prove", fields, target=built.target)
    product = context.runner.run(key, f"prove {built.target}", make)
    facts = product.facts
    return Finding(facts["verdict"], tuple(facts["lost"]), facts["latency"])


def _prove_engine(context: Context, proof: Proof, built: BuiltEngine) -> Verdict:
    with built.load(context.request.threads) as engine:
        return proof.examine(built.target, built.lowered.precision, engine, "engine")


def _prove_graph(
    context: Context, proof: Proof, built: BuiltEngine, blocker: str, journal: Journal
) -> Verdict:
    """Run the very graph the engine was built from."""
    from ...calibration.session import GraphSession
    from ..checks.widen import widen_bfloat16

    target, precision = built.target, built.lowered.precision
    graph, subject = built.lowered.load(), "its graph was run with ONNX Runtime on the CPU"
    if precision == "bf16":
        graph, subject = widen_bfloat16(graph), f"{subject} in float32 with bfloat16 weights"
    journal.note(
        f"{target}: the engine was not run ({blocker}); its kernels were audited and {subject} "
        "instead"
    )
    with GraphSession(graph, threads=context.request.threads) as session:
        engine = opened(GraphEngine(session, graph))
        return proof.examine(target, precision, engine, subject)


def _lost(built: BuiltEngine) -> tuple[str, ...]:
    from ..checks.audit import lost_fusions

    quantised = built.lowered.quantised
    plan = None if quantised is None else quantised.plan()
    policy = None if quantised is None else quantised.policy()
    return lost_fusions(built.lowered.load(), plan, built.artifact, policy)


def _latency(context: Context, built: BuiltEngine, profile: ShapeProfile) -> list[dict[str, Any]]:
    from ..latency import measure_latency

    with built.load(context.request.threads) as engine:
        return measure_latency(engine, profile)


def _machine() -> dict[str, Any]:
    here = host.cpu()
    return {
        "cpu": here.model,
        "flags": list(here.flags),
        "cores": here.physical_cores,
        "gpus": [asdict(gpu) for gpu in host.gpus()],
        "driver": host.nvidia_driver(),
    }
