"""How many blocks of each kind a graph had, how many the passes fused, and why not the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...graph.history import Refusal

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.model import Graph


@dataclass(frozen=True)
class FusionCount:
    """One kind of block.

    Attributes:
        found: blocks the graph had before the passes, fused or not.
        fused: blocks that are one operator now.
        refusals: near misses of the passes; as many as `found - fused` at least, so that a block
            which no pass took for a candidate is listed too.
    """

    found: int
    fused: int
    refusals: tuple[Refusal, ...] = ()

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        refusals = [vars(refusal).copy() for refusal in self.refusals]
        return {"found": self.found, "fused": self.fused, "refusals": refusals}


@dataclass(frozen=True)
class _Kind:
    """How one kind is counted.

    Attributes:
        spelled: the nodes at which blocks of the kind are spelled out.
        is_fused: whether a node is such a block.
        stages: passes whose refusals explain what is left.
        from_start: whether blocks are counted in the original graph too; not where they come into
            being with a fusion.
    """

    spelled: Callable[[list[ir.Node]], list[ir.Node]]
    is_fused: Callable[[ir.Node], bool]
    stages: tuple[str, ...]
    from_start: bool = True


def _kinds() -> dict[str, _Kind]:
    """All kinds, one line each."""
    from . import blocks

    norm, rms = ("LayerNormalization",), ("RMSNormalization", "SimplifiedLayerNormalization")
    return {
        "attention_mask": _Kind(
            _unusual_masks, _has_usual_mask, ("simplify-attention-mask",), from_start=False
        ),
        "attention": _Kind(
            blocks.attentions,
            _is("Attention", "MultiHeadAttention", "GroupQueryAttention"),
            ("fuse-attention",),
        ),
        "grouped_query": _Kind(blocks.repeated_keys, _is_grouped, ("group-key-value-heads",)),
        "kv_cache": _Kind(blocks.concatenated_caches, _has_past, ("fuse-key-value-cache",)),
        "layer_norm": _Kind(blocks.layer_norms, _is(*norm), ("fuse-layer-norm",)),
        "rms_norm": _Kind(blocks.rms_norms, _is(*rms), ("fuse-rms-norm",)),
        "gelu": _Kind(blocks.gelus, _is("Gelu", "FastGelu", "BiasGelu"), ("fuse-gelu",)),
        "rotary_embedding": _Kind(
            blocks.rotations, _is("RotaryEmbedding"), ("fuse-rotary-embedding",)
        ),
    }


KINDS = (
    "attention_mask", "attention", "grouped_query", "kv_cache", "layer_norm", "rms_norm", "gelu",
    "rotary_embedding",
)  # fmt: skip
"""Names of all kinds, for those who must not import onnx."""


def count_fusions(graph: Graph, original: Graph | None = None) -> dict[str, FusionCount]:
    """Blocks by kind: found before the passes, fused after them, and the reasons for the rest.

    Args:
        graph: after the canonical passes, with its history.
        original: before them. Without it, what the passes lost without a trace is not counted.
    """
    from .blocks import nodes_of

    after = nodes_of(graph.model)
    before = [] if original is None else nodes_of(original.model)
    return {name: _count(kind, graph, before, after) for name, kind in _kinds().items()}


def _count(kind: _Kind, graph: Graph, before: list[ir.Node], after: list[ir.Node]) -> FusionCount:
    left = kind.spelled(after)
    fused = sum(map(kind.is_fused, after))
    found = fused + len(left)
    if kind.from_start:
        found = max(found, len(kind.spelled(before)) + sum(map(kind.is_fused, before)))
    refusals = tuple(refusal for stage in kind.stages for refusal in _last_refusals(graph, stage))
    return FusionCount(
        found, fused, _explained(refusals, left, found - fused, kind.stages[0], graph.model)
    )


def _explained(
    refusals: tuple[Refusal, ...],
    left: Sequence[ir.Node],
    missing: int,
    rule: str,
    model: ir.Model,
) -> tuple[Refusal, ...]:
    """At least one refusal a missing block: those no pass declined are named here."""
    silent = missing - len(refusals)
    if silent <= 0 or any(not refusal.node for refusal in refusals):
        return refusals  # a reason without a node holds for the whole graph
    named = {refusal.node for refusal in refusals}
    unseen = [node for node in left if node.name not in named][:silent]
    extra = [Refusal(rule, node.name or "?", _why_unseen(node, model)) for node in unseen]
    lost = silent - len(extra)
    if lost:
        reason = f"{lost} blocks of the original are neither fused nor left"
        extra.append(Refusal(rule, "", reason))
    return (*refusals, *extra)


def _why_unseen(node: ir.Node, model: ir.Model) -> str:
    if node.graph is model.graph or model.functions:
        return "no rule took it for a candidate"
    return "it stands in a branch or a loop; passes rewrite the main graph alone"


def _last_refusals(graph: Graph, stage: str) -> tuple[Refusal, ...]:
    for record in reversed(graph.history):
        if record.stage.partition("(")[0] != stage:
            continue
        if record.rolled_back is not None:
            return (Refusal(stage, "", f"rolled back: {record.rolled_back}"),)
        return record.refusals
    return ()


def _is(*operators: str) -> Callable[[ir.Node], bool]:
    return lambda node: node.op_type in operators


def _is_standard_attention(node: ir.Node) -> bool:
    return node.op_type == "Attention" and not node.domain


def _is_grouped(node: ir.Node) -> bool:
    """Whether queries share key/value heads: an attribute in the 3-D form, axis 1 in the 4-D."""
    if not _is_standard_attention(node):
        return False
    heads = [node.attributes.get(name) for name in ("q_num_heads", "kv_num_heads")]
    if all(attribute is not None for attribute in heads):
        query, key = (attribute.as_int() for attribute in heads if attribute is not None)
        return query != key
    shapes = [None if value is None else value.shape for value in node.inputs[:2]]
    query_dim, key_dim = (shape[1] if shape and len(shape) == 4 else None for shape in shapes)
    return isinstance(query_dim, int) and isinstance(key_dim, int) and query_dim != key_dim


def _has_past(node: ir.Node) -> bool:
    return _is_standard_attention(node) and len(node.inputs) > 4 and node.inputs[4] is not None


def _mask(node: ir.Node) -> ir.Value | None:
    return node.inputs[3] if _is_standard_attention(node) and len(node.inputs) > 3 else None


def _has_usual_mask(node: ir.Node) -> bool:
    from ...passes.masks.read import attention_mask

    return _mask(node) is not None and attention_mask(node) is not None


def _unusual_masks(nodes: list[ir.Node]) -> list[ir.Node]:
    return [node for node in nodes if _mask(node) is not None and not _has_usual_mask(node)]
