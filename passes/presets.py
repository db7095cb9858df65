"""Which passes run, in which order, and why: one list for the canonical graph, one a target."""

from __future__ import annotations

from typing import Literal

from ..errors import PassError
from .attention.flatten_attention_heads import FlattenAttentionHeads
from .attention.fuse_attention import FuseAttention
from .attention.fuse_key_value_cache import FuseKeyValueCache
from .attention.group_key_value_heads import GroupKeyValueHeads
from .attention.merge_slices import MergeSlices
from .attention.split_batched_heads import SplitBatchedHeads
from .attention.split_packed_projections import SplitPackedProjections
from .base import Pass
from .blocks.fuse_gelu import FuseGelu
from .blocks.fuse_layer_norm import FuseLayerNorm
from .blocks.fuse_rms_norm import FuseRmsNorm
from .blocks.hoist_norms import HoistNorms
from .costs import CostTable
from .lowering.convert_precision import ConvertPrecision
from .lowering.fold_attention_bias import FoldAttentionBias
from .lowering.fold_residual_bias import FoldResidualBias
from .masks.replace_blends import ReplaceBlends
from .masks.simplify_attention_mask import SimplifyAttentionMask
from .normalize.clean_up import CleanUp
from .normalize.drop_no_ops import DropNoOps
from .normalize.expand_einsum import ExpandEinsum
from .normalize.fold_constants import FoldConstants
from .normalize.fold_shapes import FoldShapes
from .normalize.infer_shapes import InferShapes, RestoreOutputs
from .normalize.raise_opset import RaiseOpset
from .normalize.unflatten_gemm import UnflattenGemm
from .qdq.fold_shifts import FoldActivationShifts
from .qdq.fuse_integer_matmul import FuseIntegerMatMul
from .qdq.fuse_weight_only_matmul import FuseWeightOnlyMatMul
from .qdq.gather_codes import GatherCodes
from .qdq.lower_uint8 import LowerActivationsUint8
from .rotary.expand_rotary_caches import ExpandRotaryCaches
from .rotary.fuse_rotary_embedding import FuseRotaryEmbedding
from .static_cache.lower_cache_dtype import LowerCacheDtype
from .static_cache.lower_kv_cache import CACHE_LENGTH, LowerKvCache

Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-weight-only", "fp8"]

CANONICAL: tuple[Pass, ...] = (
    CleanUp(),  # rules assume constants on the right, and neither identities nor functions
    RaiseOpset(),  # Attention exists from opset 23 on; functions have opsets of their own
    FoldConstants(),  # legacy exports compute their constants
    InferShapes(),  # attention rules read ranks and symbolic dims
    FoldShapes(),  # before attention: frees head splits from shape arithmetic
    FoldConstants(),  # numbers that were computed from static sizes
    ExpandEinsum(),  # rules read MatMul
    UnflattenGemm(),  # rules read linear layers of three dimensions
    DropNoOps(),  # rules see neither casts to the same type nor views of views
    FuseLayerNorm(),
    FuseRmsNorm(),  # after layer norm, whose centred tensor has an RMS norm too
    HoistNorms(),  # behind the transposition of heads, the attention could not take it
    FuseGelu(),
    FuseRotaryEmbedding(),  # before heads are flattened, with which it goes
    MergeSlices(),  # after rotation, which reads either
    SplitPackedProjections(),  # after rotation: its halves are parts of the same axis
    ReplaceBlends(),  # attention rules read choices
    SplitBatchedHeads(),  # attention rules read four dimensions
    FuseAttention(),
    GroupKeyValueHeads(),  # before the cache: keys are appended, then repeated
    FuseKeyValueCache(),
    FlattenAttentionHeads(),  # after fusing: it rewrites the 4-D form
    ExpandRotaryCaches(),  # after flattening: the batch is read before the heads are split
    CleanUp(),  # equal masks of all layers become one
    SimplifyAttentionMask(),
    InferShapes(),  # the new mask is typed: conversion of precision reads dtypes
    FoldShapes(),  # its size comes from the input the other sizes come from
    CleanUp(),  # the replaced mask subgraphs go
    RestoreOutputs(),  # outputs keep the names of sizes they were declared with
)
"""From what an exporter wrote to the canonical dialect: standard ONNX, opset 23."""


def lowering(
    target: str,
    precision: Precision,
    *,
    uint8_activations: bool = True,
    costs: CostTable | None = None,
    cache_length: int = CACHE_LENGTH,
) -> tuple[Pass, ...]:
    """Passes from the canonical (or quantised) graph to what one target runs fastest.

    Args:
        target: ``ort-cpu``, ``ort-cuda``, ``tensorrt`` or ``tensorrt-rtx``.
        precision: of the engine; quantised graphs carry their Q/DQ already.
        uint8_activations: whether this CPU multiplies uint8 by int8 exactly and fast (x86 with
            VNNI); elsewhere int8 activations stay int8.
        costs: which form of an operator is fastest; None for the table that ships.
        cache_length: tokens a row of a decoder's static key/value cache holds; TensorRT alone.
    """
    if target == "ort-cpu" and precision == "int8":
        steps = (LowerActivationsUint8(), FoldActivationShifts(), FuseIntegerMatMul())
        return (GatherCodes(), *(steps if uint8_activations else ()))
    if target == "ort-cpu" and precision == "int8-weight-only":
        return (GatherCodes(), FuseWeightOnlyMatMul(), CleanUp())
    if target == "ort-cpu":
        costs = costs or CostTable.shipped(target)
        chosen = () if costs is None else costs.passes()
        return (FoldResidualBias(), *chosen, FoldAttentionBias(), CleanUp())
    if target not in ("ort-cuda", "tensorrt", "tensorrt-rtx"):
        raise PassError(f"target {target!r}: there is no lowering for it")
    # A static cache is all that TensorRT updates; nothing happens to a graph without one.
    static = () if target == "ort-cuda" else (LowerKvCache(cache_length), CleanUp())
    if precision == "fp32":
        return static
    # Q/DQ sits on a 16-bit body: fused attention does not exist in float32 on TensorRT.
    narrow = ConvertPrecision("bfloat16" if precision == "bf16" else "float16")
    return (*static, narrow, *((LowerCacheDtype(),) if static else ()), CleanUp())
