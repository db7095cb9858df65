"""Feeds with enough different tokens to tell values apart by what they hold."""

from __future__ import annotations

import numpy as np

from ...graph.tensors import Array, Feeds

_ENOUGH = 48
"""Different tokens. With a few alone, any value is any other but for a factor and a constant."""

_TEXT = frozenset({"input_ids", "attention_mask", "token_type_ids"})


def with_variety(feeds: Feeds) -> dict[str, Array]:
    """The feeds, and behind them rows of other tokens where there are few different ones.

    Args:
        feeds: int [batch, sequence] for each input of a text; others are left as they are.

    Returns:
        The same arrays, or longer ones of which the first rows are the same.
    """
    ids = feeds.get("input_ids")
    if ids is None or not feeds.keys() <= _TEXT or ids.ndim != 2:
        return dict(feeds)
    if any(array.shape != ids.shape for array in feeds.values()):
        return dict(feeds)
    batch, sequence = ids.shape
    seen = np.asarray(feeds.get("attention_mask", np.ones_like(ids)) != 0)
    places = np.broadcast_to(np.arange(sequence), ids.shape)
    different = len(set(zip(ids[seen].tolist(), places[seen].tolist(), strict=True)))
    if different >= _ENOUGH:
        return dict(feeds)
    rows = -(-_ENOUGH // sequence)
    drawn = np.random.default_rng(batch).integers(0, int(ids.max()) + 1, (rows, sequence))
    more = {"input_ids": drawn, "attention_mask": np.ones_like(drawn)}
    return {
        name: np.concatenate([array, more.get(name, np.zeros_like(drawn)).astype(array.dtype)])
        for name, array in feeds.items()
    }
