"""What an attention mask means: which keys each query may attend to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Array


@dataclass(frozen=True, kw_only=True)
class Mask:
    """A key is kept when it is no padding and near enough to the query.

    Positions count from the first key, and the queries are the last keys: query ``q`` of
    ``queries`` stands at ``keys - queries + q``. That is 0, 1, ... without a cache, and behind the
    cached keys with one.

    Attributes:
        padding: graph input [batch, keys], 1 where a token is; None when every key is one.
        pads_queries: whether a query that is padding keeps no key (DeBERTa).
        back: how many positions before its own a query sees; None is all.
        ahead: how many positions after its own a query sees; None is all, 0 is causal.
    """

    padding: ir.Value | None = None
    pads_queries: bool = False
    back: int | None = None
    ahead: int | None = None

    @property
    def has_band(self) -> bool:
        """Whether the distance of query and key matters."""
        return self.back is not None or self.ahead is not None

    @property
    def is_empty(self) -> bool:
        """Whether every key is kept."""
        return self.padding is None and not self.has_band

    @property
    def is_causal_alone(self) -> bool:
        """Whether it is what the attribute ``is_causal`` says for as many queries as keys."""
        return self == Mask(ahead=0)

    def __str__(self) -> str:
        """For a report, for example ``padding by attention_mask, causal``."""
        parts = []
        if self.padding is not None:
            queries = " of keys and queries" if self.pads_queries else ""
            parts.append(f"padding{queries} by {self.padding.name}")
        if self.ahead == 0:
            parts.append("causal")
        if self.back is not None:
            parts.append(f"at most {self.back} back")
        if self.ahead:
            parts.append(f"at most {self.ahead} ahead")
        return ", ".join(parts) or "no mask"

    def keeps(self, padding: Array, queries: int) -> Array:
        """The mask by its definition.

        Args:
            padding: int [batch, keys]; its size counts even where its contents do not.
            queries: how many.

        Returns:
            bool [batch, 1, queries, keys].
        """
        batch, keys = padding.shape
        distance = np.arange(keys) - np.arange(keys - queries, keys)[:, None]
        near = np.ones((queries, keys), np.bool_)
        if self.back is not None:
            near &= distance >= -self.back
        if self.ahead is not None:
            near &= distance <= self.ahead
        kept = np.broadcast_to(near, (batch, 1, queries, keys))
        if self.padding is None:
            return kept
        token = padding.astype(np.bool_)
        kept = kept & token[:, None, None, :]
        return kept & token[:, None, :, None] if self.pads_queries else kept

    def widened(self, by: int, beyond: int) -> Mask:
        """The mask whose limits larger than `beyond` are larger by so much."""
        back, ahead = (
            limit if limit is None or limit < beyond else limit + by
            for limit in (self.back, self.ahead)
        )
        return replace(self, back=back, ahead=ahead)

    def both(self, other: Mask) -> Mask | None:
        """What keeps a key that both keep; None when they follow different inputs."""
        if None not in (self.padding, other.padding) and self.padding is not other.padding:
            return None
        return replace(
            self,
            padding=self.padding or other.padding,
            pads_queries=self.pads_queries or other.pads_queries,
            back=_least(self.back, other.back),
            ahead=_least(self.ahead, other.ahead),
        )


def _least(left: int | None, right: int | None) -> int | None:
    if left is None or right is None:
        return right if left is None else left
    return min(left, right)


class Miss(Exception):  # noqa: N818  (control flow of the mask files, never leaves the pass)
    """Why a mask is left as it is."""


class Uneven(Miss):
    """Hidden keys of a query without any key are not equally low: several fills were added up."""
