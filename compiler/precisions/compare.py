"""Build every candidate, time or model each, and keep the fastest that answers like the model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines.base import ENGINE_FACTS
from ...engines.bundle import SOURCE, Bundle, BundleWriter
from ...engines.targets import default_targets
from ...errors import BuildError, FuselageError, VerificationError
from ..pipeline import Outcome, run_build
from ..progress import Listener
from ..recipe import Request
from ..report import read_report
from .candidates import Candidate, candidates_for

if TYPE_CHECKING:
    from .cost import Workload

_MODELLED_ON = "SM89"
"""When the engine is not for one compute capability alone."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a candidate.

    Attributes:
        candidate: as asked for.
        passed: whether it answers like the model, within the budget.
        reason: why it did not pass, or was not built; None when it passed.
        score: milliseconds, the geometric mean over the shapes; infinite without an engine.
        how: ``measured``, or ``modelled`` and for which GPU.
        facts: figures for the report.
    """

    candidate: Candidate
    passed: bool
    reason: str | None
    score: float = math.inf
    how: str = ""
    facts: Mapping[str, Any]

    def report(self, chosen: Candidate) -> dict[str, Any]:
        """For ``report.json``."""
        return {
            "name": self.candidate.name,
            "chosen": self.candidate == chosen,
            "passed": self.passed,
            "reason": self.reason,
            "milliseconds": round(self.score, 4) if math.isfinite(self.score) else None,
            "how": self.how,
            **self.facts,
        }


def compare_precisions(
    request: Request,
    listener: Listener | None = None,
    *,
    force: bool = False,
    use_cache: bool = True,
) -> Outcome:
    """Build the bundle in the precision whose engine is the fastest within the accuracy budget.

    Latency is measured where the target runs on this machine, else modelled by `cost`, which the
    report says. The cache of stages lets candidates share all they have in common, and the chosen
    one be built for good at no cost.

    Args:
        request: with precision ``auto`` and one target.
        listener: see `run_build`.
        force: see `run_build`; candidates are built and timed anew as well.
        use_cache: see `run_build`.

    Raises:
        BuildError: on several targets, or a precision in the request.
        BundleError: when the destination holds something else than a bundle; nothing is built.
        VerificationError: when no candidate answers like the model.
        FuselageError: of the float candidate's build.
    """
    targets = request.targets or default_targets()
    if len(targets) != 1:
        raise BuildError(
            f"--compare-precisions compares engines of one target, got {', '.join(targets)}; "
            "choose with --target"
        )
    candidates = candidates_for(request, targets[0])
    build = partial(run_build, listener=listener, force=force, use_cache=use_cache)
    # Never committed: it checks the destination before anything is built, and clears up.
    with BundleWriter(request.out) as scratch:
        results = [
            _try(candidate, request, targets[0], scratch.root / str(number), build)
            for number, candidate in enumerate(candidates)
        ]
    best = _best(results)
    comparison = tuple(result.report(best) for result in results)
    return build(replace(best.request(request), comparison=comparison))


def _try(
    candidate: Candidate,
    request: Request,
    target: str,
    folder: Path,
    build: Callable[[Request], object],
) -> Result:
    asked = replace(candidate.request(request), out=folder, targets=(target,))
    reason = None
    try:
        build(asked)
    except VerificationError as error:
        reason = str(error)
        if not folder.is_dir():
            return Result(candidate=candidate, passed=False, reason=reason, facts={})
    except FuselageError as error:
        if candidate.precision not in ("int8", "fp8"):
            raise
        return Result(candidate=candidate, passed=False, reason=str(error), facts={})
    bundle = Bundle.open(folder)
    report = read_report(bundle)
    score, how = _timed(report, bundle, target)
    verdict = report["verification"]["targets"][0]
    quantization = report["quantization"]
    return Result(
        candidate=candidate,
        passed=reason is None,
        reason=reason,
        score=score,
        how=how,
        facts={
            "bytes": report["targets"][target]["bytes"],
            "cosine_mean": verdict["cosine_mean"],
            "cosine_min": verdict["cosine_min"],
            "sqnr_db": None if quantization is None else quantization["sqnr_db"],
            "accuracy": [] if quantization is None else quantization["accuracy"],
        },
    )


def _best(results: Sequence[Result]) -> Candidate:
    """The fastest that passed; of equals the first, which loses least."""
    passed = [result for result in results if result.passed]
    if not passed:
        reasons = "; ".join(f"{item.candidate.name}: {item.reason}" for item in results)
        raise VerificationError(f"no precision answers like the model: {reasons}")
    return min(passed, key=lambda result: result.score).candidate


def _timed(report: Mapping[str, Any], bundle: Bundle, target: str) -> tuple[float, str]:
    measured = report["latency"].get(target)
    if measured:
        return _mean([entry["median_ms"] for entry in measured]), "measured"
    engine = json.loads((bundle.folder(target) / ENGINE_FACTS).read_bytes())
    return _modelled(engine, _workload(bundle), report["shapes"]["profiles"])


def _modelled(
    engine: Mapping[str, Any], work: Workload, profiles: Sequence[Mapping[str, Any]]
) -> tuple[float, str]:
    from .cost import RATES, modelled_ms

    names = [name for name in engine["compute_capabilities"] if name in RATES]
    gpu = RATES[names[0] if len(names) == 1 else _MODELLED_ON]
    found = []
    for index, axes in enumerate(profiles):
        kernels = [item for item in engine["kernel_list"] if item["profile"] == index]
        least, best, _ = axes["batch"]
        tokens = axes["sequence"][1]
        found += [modelled_ms(kernels, work, gpu, batch, tokens) for batch in {least, best}]
    return _mean(found), f"modelled for {gpu.name}"


def _workload(bundle: Bundle) -> Workload:
    from ...graph.model import Graph
    from ..quantization.quantizable import quantizable
    from .cost import Workload

    canonical = Graph.load(bundle.path(SOURCE))
    return Workload.of((canonical, quantizable(canonical)))


def _mean(values: Sequence[float]) -> float:
    """Geometric, so that a percent at a small batch weighs as much as one at a large batch."""
    logs = [math.log(value) for value in values if value > 0]
    return math.exp(sum(logs) / len(logs)) if logs else math.inf
