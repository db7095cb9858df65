"""The whole of a cost model: count, measure, fit, predict, rank, and say it as a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...engines import host
from ...errors import DeviceError, GraphError
from .counting import GraphCost, count, sizes_of
from .fitting import Fit, NodeTimes, Observation, Sizes, fit
from .judging import Verdict, judge
from .kernels import fused_from, kernels_of, unplaced
from .measuring import measure
from .peaks import Peaks, gpu_peaks, measure_peaks
from .polynomial import evaluate
from .roofline import Bottleneck, NodeFloor, bottlenecks, floors
from .shape import CostShape, sizes_at
from .subject import Costed

_FEW = 3
LONGEST = 256
"""Tokens of the longest text that is fitted on, where the model takes as many."""


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """What every node of a graph costs at a shape, and why.

    Attributes:
        subject: the graph and what runs it.
        shape: asked for.
        sizes: of the dynamic axes at it.
        cost: polynomials of every node.
        peaks: of the machine or the GPU.
        floors: the least every node could take.
        observed: what was measured at the shape; None when nothing was.
        fitted: coefficients; None when nothing was measured.
        verdict: how far the fit is off at the shape, on which it was not fitted.
        joined: names behind each node: kernels of a plan, or the canonical nodes it came from.
        absent: nodes of the canonical graph that are in no node of the engine.
        ranked: classes of nodes, the slowest first.
        notes: what the reader should know.
    """

    subject: Costed
    shape: CostShape
    sizes: Sizes
    cost: GraphCost
    peaks: Peaks
    floors: Sequence[NodeFloor]
    observed: Observation | None
    fitted: Fit | None
    verdict: Verdict | None
    joined: Sequence[tuple[str, ...]]
    absent: tuple[str, ...]
    ranked: Sequence[Bottleneck]
    notes: tuple[str, ...]

    @property
    def predicted(self) -> NodeTimes:
        """Seconds of every node by the fit; None where there is none."""
        if self.fitted is None:
            return [None] * len(self.cost.nodes)
        return self.fitted.nodes(self.cost, self.sizes)


def fit_shapes(longest: int = LONGEST) -> tuple[CostShape, ...]:
    """The three shapes a model is fitted on.

    A few short texts, where constants and weights decide; many short texts; and texts as long as
    the model takes, with twice as many tokens. The latter two tell what grows with the tokens from
    what grows with the square of a length: twice the tokens have 32 times the scores.
    """
    longest = max(4, min(LONGEST, longest))
    short = max(2, longest // 16)
    return CostShape(2, short), CostShape(16, short), CostShape(2, longest)


def examine(
    subject: Costed,
    shape: CostShape,
    *,
    measured: bool = False,
    threads: int = 0,
    rounds: int = 6,
    seconds: float = 0.25,
) -> CostModel:
    """Count a graph, and time it where asked.

    Args:
        subject: from `open_engine` or `open_file`.
        shape: to evaluate the polynomials at, and to test the fit on.
        measured: time three other shapes and this one on this CPU, fit, and hold the fit to it.
        threads: of measurements, 0 for all physical cores.
        rounds: of measurements, each of all shapes.
        seconds: for a shape in a round.

    Raises:
        FeedError: when the graph does not run at the shape.
        DeviceError: when timing is asked for of an engine that does not run on this CPU.
        GraphError: when a size cannot be evaluated at the shape.
    """
    if measured and subject.on_gpu:
        raise DeviceError(
            f"{subject.name}: {subject.target} is not timed node by node, the CPU alone is; "
            "leave --measure out, or name --target ort-cpu"
        )
    cost, sizes = count(subject.graph), sizes_at(subject.graph, shape)
    notes = [*subject.notes, *_unknown(cost), *_doubts(subject, measured=measured)]
    _check_sizes(cost, sizes, shape)
    peaks = _peaks(subject, threads)
    observed, fitted, verdict = None, None, None
    if measured:
        tried = [*_free_shapes(subject, cost, shape), shape]
        found = measure(
            subject.path, subject.graph, tried, threads=threads, rounds=rounds, seconds=seconds
        )
        observed, fitted = found[-1], fit(cost, found[:-1])
        verdict = judge(cost, fitted, observed)
        peaks = _proved(peaks, cost, observed)
    least = floors(cost, sizes, peaks)
    joined = _joined(subject)
    times = None if observed is None else observed.nodes
    return CostModel(
        subject=subject,
        shape=shape,
        sizes=sizes,
        cost=cost,
        peaks=peaks,
        floors=least,
        observed=observed,
        fitted=fitted,
        verdict=verdict,
        joined=joined,
        absent=_absent(subject, joined),
        ranked=bottlenecks(cost, least, times),
        notes=tuple(notes),
    )


def _peaks(subject: Costed, threads: int) -> Peaks:
    if not subject.on_gpu:
        return measure_peaks(threads=threads)
    return gpu_peaks(subject.capability, subject.precision or "fp32")


def _proved(peaks: Peaks, cost: GraphCost, observed: Observation) -> Peaks:
    """Peaks that no product of the graph was above, as a busy machine makes them seem."""
    best = {True: 0.0, False: 0.0}
    for node, time in zip(cost.nodes, observed.nodes, strict=True):
        if time and node.kind in ("product", "attention"):
            rate = float(node.flops.at(observed.sizes)) / time
            best[node.integer] = max(best[node.integer], rate)
    return peaks.raised(best[False], best[True])


def _free_shapes(subject: Costed, cost: GraphCost, asked: CostShape) -> list[CostShape]:
    """Shapes to fit on; the one asked for is not among them, so that it tests the fit."""
    if asked.past:
        return [
            CostShape(shape.batch, asked.sequence, shape.sequence)
            for shape in fit_shapes(max(4, 2 * asked.past))
            if (shape.batch, shape.sequence) != (asked.batch, asked.past)
        ]
    shapes = fit_shapes(_longest(cost, sizes_at(subject.graph, CostShape(1, LONGEST))))
    return [
        CostShape(shape.batch + 1, shape.sequence) if shape == asked else shape for shape in shapes
    ]


def _longest(cost: GraphCost, sizes: Sizes) -> int:
    """The least table that a size is cut at: ``Min(512, sequence)`` says 512."""
    cuts = [
        evaluate(size, dict.fromkeys(sizes, 1 << 30))
        for size in sizes_of(cost)
        if size[:4] == "Min("
    ]
    return min([LONGEST, *cuts])


def _check_sizes(cost: GraphCost, sizes: Mapping[str, int], shape: CostShape) -> None:
    unknown = []
    for size in sizes_of(cost):
        try:
            evaluate(size, sizes)
        except GraphError:
            unknown.append(size)
    if unknown:
        more = f" and {len(unknown) - _FEW} more" if len(unknown) > _FEW else ""
        raise GraphError(
            f"the costs depend on {', '.join(sorted(unknown)[:_FEW])}{more}, which no shape gives "
            f"({shape} gives {', '.join(sorted(sizes)) or 'nothing'}): run fuselage optimize on "
            "the graph first, which names its sizes"
        )


def _doubts(subject: Costed, *, measured: bool) -> list[str]:
    """Why times or floors should not be trusted."""
    found = []
    load, cores = host.load_average(), host.physical_cores()
    if measured and load is not None and load > cores:
        found.append(f"the machine is busy (load {load:.1f} on {cores} cores): times are too long")
    if subject.on_gpu and not subject.capabilities:
        found.append(f"the engine names no GPU: floors are those of {subject.capability}")
    return found


def _unknown(cost: GraphCost) -> list[str]:
    return list(dict.fromkeys(node.problem for node in cost.nodes if node.problem is not None))


def _joined(subject: Costed) -> list[tuple[str, ...]]:
    nodes = list(subject.graph.model.graph)
    if subject.kernels:
        kernels = kernels_of(subject.kernels)
        return [kernels.get(node.name or "", ()) for node in nodes]
    if subject.source is None or subject.source is subject.graph:
        return [()] * len(nodes)
    return fused_from(subject.graph, subject.source)


def _absent(subject: Costed, joined: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    if subject.source is None or subject.source is subject.graph:
        return ()
    return unplaced(joined, subject.source)
