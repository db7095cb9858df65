"""What the masks of a cached decoder show: all earlier keys, or a sliding window of them.

Padding hides nothing in a static cache: rows of different lengths are told apart by their lengths.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import PassError
from ...graph.tensors import Array
from ..masks.fill import MASKED_BELOW
from .cache_samples import DecoderInputs, Sampler, Sizes, computes_activations, cone

_SMALL = (
    Sizes(batch=2, sequence=3, past=4),
    Sizes(batch=1, sequence=5, past=0),
    Sizes(batch=3, sequence=1, past=6),
)


def windows_of(
    model: ir.Model, inputs: DecoderInputs, masks: Iterable[ir.Value], length: int
) -> dict[ir.Value, int | None]:
    """How many keys a query sees by each mask: its own and those before it.

    Args:
        model: the decoder.
        inputs: what its inputs are.
        masks: of the attentions, bool or float.
        length: tokens a cache will hold; a window that is never reached hides nothing.

    Returns:
        The size of the window, or None when all earlier keys are seen.

    Raises:
        PassError: when a mask does something else, with what it does.
    """
    wanted = list(dict.fromkeys(masks))
    if not wanted:
        return {}
    for node in cone(wanted):
        if computes_activations(node):
            raise PassError(f"the mask depends on activations, {_through(node)}")
        if node.op_type != "Shape" and inputs.tokens in node.inputs:
            raise PassError(f"the mask reads the tokens, {_through(node)}")
    samples = (*_SMALL, Sizes(batch=1, sequence=2, past=length - 2))
    try:
        sampler = Sampler(model, inputs, wanted)
        arrays = [sampler(sizes) for sizes in samples]
    except (PassError, ValueError) as error:  # ValueError: it reads yet another input
        raise PassError(f"the mask cannot be computed from lengths alone: {error}") from error
    found: dict[ir.Value, int | None] = {}
    for mask, *own in zip(wanted, *arrays, strict=True):
        # The last query of a full slot sees a window whole.
        window = min(int(_kept(own[-1], samples[-1], mask)[0, 0, -1].sum()), length)
        for array, sizes in zip(own, samples, strict=True):
            _compare(mask, _kept(array, sizes, mask), sizes, window)
        found[mask] = None if window == length else window
    return found


def _through(node: ir.Node) -> str:
    return f"through {node.op_type} {node.name!r}"


def _kept(array: Array, sizes: Sizes, mask: ir.Value) -> NDArray[np.bool_]:
    """Which keys are seen, [batch, 1, sequence, total]."""
    keeps = array.astype(bool) if array.dtype == np.bool_ else np.equal(array, 0)
    drops = np.logical_not(keeps) if array.dtype == np.bool_ else np.less_equal(array, MASKED_BELOW)
    shape = (sizes.batch, 1, sizes.sequence, sizes.total)
    try:
        keeps, drops = np.broadcast_to(keeps, shape), np.broadcast_to(drops, shape)
    except ValueError:
        raise PassError(
            f"the mask {mask.name!r} has shape {list(array.shape)} at {sizes}, expected one that "
            f"broadcasts to {list(shape)}"
        ) from None
    if not np.all(keeps | drops):
        raise PassError(
            f"the mask {mask.name!r} adds a bias to scores it does not hide; a static cache has no "
            "room for it"
        )
    return keeps


def _compare(mask: ir.Value, keeps: NDArray[np.bool_], sizes: Sizes, window: int) -> None:
    keys, queries = np.arange(sizes.total), sizes.past + np.arange(sizes.sequence)[:, None]
    wrong = np.argwhere(keeps != ((keys <= queries) & (keys > queries - window)))
    if not len(wrong):
        return
    _, _, query, key = (int(index) for index in wrong[0])
    state = "shows" if keeps[tuple(wrong[0])] else "hides"
    raise PassError(
        f"the mask {mask.name!r} {state} key {key} to the query at position {sizes.past + query}; "
        f"expected that each sees its own and up to {window - 1} keys before it"
    )
