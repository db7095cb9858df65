"""The section ``--costs`` of ``fuselage inspect``: what every node costs, and where time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .console import print_table, say
from .subject import is_bundle

if TYPE_CHECKING:
    from ...proof.cost_model.examine import CostModel

_SLOWEST = 12
_LONGEST_KERNEL = 40


def check_shape(text: str) -> None:
    """Refuse a shape before anything is shown.

    Raises:
        FeedError: when it is none.
    """
    from ...proof.cost_model.shape import CostShape

    CostShape.parse(text)


def make_costs(
    path: Path, *, target: str | None, shape: str, measured: bool, threads: int
) -> CostModel:
    """Count a bundle's engine or an ONNX file, and time it where asked.

    Raises:
        FuselageError: as `fuselage.proof.cost_model.examine.examine` does.
    """
    from ...proof.cost_model.examine import examine
    from ...proof.cost_model.shape import CostShape
    from ...proof.cost_model.subject import open_engine, open_file

    asked = CostShape.parse(shape)
    subject = open_engine(path, target) if is_bundle(path) else open_file(path)
    return examine(subject, asked, measured=measured, threads=threads)


def show_costs(model: CostModel, *, every: bool) -> None:
    """Print totals, classes and nodes.

    Args:
        model: from `make_costs`.
        every: all nodes in their order, not the slowest.
    """
    cost, sizes = model.cost, model.sizes
    flops, moved = float(cost.flops.at(sizes)), float(cost.moved_bytes.at(sizes))
    floor = sum(least.seconds for least in model.floors)
    say(f"{model.shape}: {flops / 1e9:,.3f} GFLOP, {moved / 1e6:,.1f} MB moved")
    say(f"operations: {cost.flops}")
    say(f"bytes: {cost.moved_bytes}")
    say(
        f"floor {floor * 1e3:,.3f} ms at {model.peaks.flops / 1e9:,.1f} GFLOP/s, "
        f"{model.peaks.copies[-1][1] / 1e9:,.1f} GB/s ({model.peaks.source})"
    )
    _say_fit(model)
    for note in model.notes:
        say(f"note: {note}")
    _show_classes(model)
    _show_nodes(model, every=every)
    _show_kernels(model, every=every)


def _show_kernels(model: CostModel, *, every: bool) -> None:
    """Kernels of a plan, by what the roofline of its GPU gives them."""
    from ...proof.cost_model.document import kernels_facts

    kernels = kernels_facts(model)
    shown = kernels if every else sorted(kernels, key=lambda k: -k["modelled_ms"])[:_SLOWEST]
    rows = [
        (k["name"][-_LONGEST_KERNEL:], k["kind"], k["dtypes"], len(k["nodes"]), k["modelled_ms"])
        for k in shown
    ]
    if rows:
        total = sum(kernel["modelled_ms"] for kernel in kernels)
        title = f"{len(rows)} of {len(kernels)} kernels, modelled: {total:.3f} ms in all"
        print_table(title, ("kernel", "kind", "types", "nodes", "modelled ms"), rows)


def _say_fit(model: CostModel) -> None:
    verdict, fitted = model.verdict, model.fitted
    if verdict is None or fitted is None:
        return
    ranks = "-" if verdict.spearman is None else f"{verdict.spearman:.3f}"
    say(
        f"measured {verdict.measured * 1e3:,.3f} ms, predicted {verdict.predicted * 1e3:,.3f} ms "
        f"({verdict.error:+.1%}) from {', '.join(fitted.shapes)}; a node is off by "
        f"{verdict.node_median:.1%} (median), ranks agree to {ranks}"
    )


def _show_classes(model: CostModel) -> None:
    rows = [
        (
            row.name,
            row.nodes,
            f"{row.flops / 1e9:,.3f}",
            f"{row.moved / 1e6:,.1f}",
            _ms(row.seconds),
            f"{row.share:.1%}",
            _ms(row.floor),
            "-" if row.achieved is None else f"{row.achieved:.0%}",
            row.bound,
        )
        for row in model.ranked
    ]
    columns = ("class", "nodes", "GFLOP", "MB", "ms", "share", "floor ms", "achieved", "bound")
    print_table("where the time goes", columns, rows)


def _show_nodes(model: CostModel, *, every: bool) -> None:
    predicted = model.predicted
    nodes = model.cost.nodes
    measured = [None] * len(nodes) if model.observed is None else model.observed.nodes
    order = list(range(len(nodes)))
    if not every:
        order.sort(key=lambda index: -(measured[index] or model.floors[index].seconds))
        order = order[:_SLOWEST]
    rows = [
        (
            nodes[index].name,
            nodes[index].op,
            str(nodes[index].flops),
            str(nodes[index].moved_bytes),
            _ms(predicted[index]),
            _ms(measured[index]),
            _ms(model.floors[index].seconds),
            _behind(model, index),
        )
        for index in order
    ]
    columns = (
        "node", "operator", "operations", "bytes", "predicted ms", "measured ms", "floor ms",
        "kernel" if model.subject.kernels else "made from",
    )  # fmt: skip
    title = "nodes" if every else f"the {len(rows)} slowest nodes of {len(nodes)}"
    print_table(title, columns, rows)


def _behind(model: CostModel, index: int) -> str | None:
    """Kernels, or the nodes that were fused; a node that is itself says nothing."""
    names = [name for name in model.joined[index] if name != model.cost.nodes[index].name]
    return ", ".join(name[-_LONGEST_KERNEL:] for name in names) or None


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.4f}"
