"""Is the mask of a cached decoder what a cache with lengths does by itself?

A query at position p sees the keys at 0 to p, and padding hides nothing: rows of different lengths
are told apart by their lengths. Any other mask, such as a sliding window, hides more.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from ..errors import PassError
from ..graph.tensors import Array
from .cache_samples import DecoderInputs, Sampler, Sizes, computes_activations, cone
from .masks.fill import MASKED_BELOW

_SMALL = (
    Sizes(batch=2, sequence=3, past=4),
    Sizes(batch=1, sequence=5, past=0),
    Sizes(batch=3, sequence=1, past=6),
)


def objection_to_masks(
    model: ir.Model, inputs: DecoderInputs, masks: Iterable[ir.Value], length: int
) -> str | None:
    """None when every mask is causal after the past, else what one of them does instead.

    Args:
        model: the decoder.
        inputs: what its inputs are.
        masks: of the attentions, bool or float.
        length: tokens a cache will hold; a window that is never reached hides nothing.
    """
    wanted = list(dict.fromkeys(masks))
    if not wanted:
        return None
    for node in cone(wanted):
        if computes_activations(node):
            return f"the mask depends on activations, through {node.op_type} {node.name!r}"
        if node.op_type != "Shape" and inputs.tokens in node.inputs:
            return f"the mask reads the tokens, through {node.op_type} {node.name!r}"
    try:
        sampler = Sampler(model, inputs, wanted)
        for sizes in (*_SMALL, Sizes(batch=1, sequence=2, past=length - 2)):
            for mask, array in zip(wanted, sampler(sizes), strict=True):
                if reason := _difference(array, sizes):
                    return f"the mask {mask.name!r} {reason}"
    except (PassError, ValueError) as error:  # ValueError: it reads yet another input
        return f"the mask cannot be computed from lengths alone: {error}"
    return None


def _difference(mask: Array, sizes: Sizes) -> str | None:
    keeps = mask.astype(bool) if mask.dtype == np.bool_ else np.equal(mask, 0)
    drops = np.logical_not(keeps) if mask.dtype == np.bool_ else np.less_equal(mask, MASKED_BELOW)
    keys = np.arange(sizes.total)
    wanted = keys <= sizes.past + np.arange(sizes.sequence)[:, None]
    shape = (sizes.batch, 1, sizes.sequence, sizes.total)
    try:
        keeps, drops = np.broadcast_to(keeps, shape), np.broadcast_to(drops, shape)
    except ValueError:
        return f"has shape {list(mask.shape)} at {sizes}, expected one that broadcasts to {shape}"
    if not np.all(keeps | drops):
        return "adds a bias to scores it does not hide; a cache with lengths has no room for it"
    wrong = np.argwhere(keeps != wanted)
    if not len(wrong):
        return None
    _, _, query, key = (int(index) for index in wrong[0])
    state = "shows" if keeps[tuple(wrong[0])] else "hides"
    return (
        f"{state} key {key} to the query at position {sizes.past + query}; expected causal "
        "attention over all earlier keys, without a window"
    )
