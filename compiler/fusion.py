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
    "attention_mask": ("Attention", "simplify-attention-mask"),
    "layer_norm": ("LayerNormalization", "fuse-layer-norm"),
    "gelu": ("Gelu", "fuse-gelu"),
}


def count_fusions(graph: Graph) -> dict[str, FusionCount]:
    """Fused and refused blocks by kind, from the operators present and the last refusals recorded.

    ``attention_mask`` counts the attentions whose mask is the canonical padding mask.
    """
    counts = {}
    operators = graph.op_counts
    for kind, (operator, stage) in _KINDS.items():
        refused = _last_refusals(graph, stage)
        fused = operators.get(operator, 0)
        if kind == "attention_mask":
            fused -= len(refused)
        counts[kind] = FusionCount(fused + len(refused), fused, refused)
    return counts


def _last_refusals(graph: Graph, stage: str) -> tuple[Refusal, ...]:
    for record in reversed(graph.history):
        if record.stage.partition("(")[0] == stage:
            return record.refusals
    return ()
