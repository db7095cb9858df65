"""How many blocks of each kind a graph had and how many the passes fused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..graph.history import Refusal

if TYPE_CHECKING:
    from ..graph.model import Graph


@dataclass(frozen=True)
class FusionCount:
    """One kind of block.

    Attributes:
        found: blocks recognised, fused or not.
        fused: blocks that are one operator now.
        refusals: why the others are not.
    """

    found: int
    fused: int
    refusals: tuple[Refusal, ...] = ()


_KINDS = {
    "attention": ("Attention", "fuse-attention"),
    "layer_norm": ("LayerNormalization", "fuse-layer-norm"),
    "gelu": ("Gelu", "fuse-gelu"),
}


def count_fusions(graph: Graph) -> dict[str, FusionCount]:
    """Fused and refused blocks by kind, from the operators present and the last refusals recorded.

    ``attention_mask`` counts the attentions that have a mask, and those whose mask is the canonical
    padding mask. A pass that was rolled back counts as one refusal, with the reason.
    """
    operators = graph.op_counts
    counts = {"attention_mask": _count_masks(graph)}
    for kind, (operator, stage) in _KINDS.items():
        refused = _last_refusals(graph, stage)
        fused = operators.get(operator, 0)
        counts[kind] = FusionCount(fused + len(refused), fused, refused)
    return counts


def _count_masks(graph: Graph) -> FusionCount:
    from ..passes.padding_mask import padding_source

    masks = [
        node.inputs[3]
        for node in graph.model.graph
        if node.op_type == "Attention" and not node.domain and len(node.inputs) > 3
    ]
    present = [mask for mask in masks if mask is not None]
    fused = sum(padding_source(mask) is not None for mask in present)
    return FusionCount(len(present), fused, _last_refusals(graph, "simplify-attention-mask"))


def _last_refusals(graph: Graph, stage: str) -> tuple[Refusal, ...]:
    for record in reversed(graph.history):
        if record.stage.partition("(")[0] != stage:
            continue
        if record.rolled_back is not None:
            return (Refusal(stage, "", f"rolled back: {record.rolled_back}"),)
        return record.refusals
    return ()
