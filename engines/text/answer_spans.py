"""Start and end logits of a window to the spans that may be the answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .scores import Floats, softmax

MASKED = np.float32(-10000.0)
"""Logit of a token that cannot begin or end an answer; exp() of it is 0."""


@dataclass(frozen=True, kw_only=True)
class SpanSearch:
    """What to look for.

    Attributes:
        top_k: answers wanted.
        max_answer_len: tokens of the longest answer.
        handle_impossible_answer: whether "no answer" is one.
        align_to_words: whether spans are widened to words.
    """

    top_k: int
    max_answer_len: int
    handle_impossible_answer: bool
    align_to_words: bool

    @property
    def candidates(self) -> int:
        """Spans wanted of a window: aligned to words, several may become one answer."""
        return self.top_k * 2 + 10 if self.align_to_words else self.top_k


@dataclass(frozen=True)
class Span:
    """Tokens first to last of a window, and the probability that they are the answer."""

    score: float
    first: int
    last: int


@dataclass(frozen=True)
class Found:
    """Spans of one window, best first, and the probability that it holds no answer."""

    null_score: float
    spans: tuple[Span, ...]


def best_spans(
    start_logits: Floats, end_logits: Floats, mask: NDArray[np.bool_], search: SpanSearch
) -> Found:
    """Search one window.

    A span scores the probability of its start times that of its end, both over the tokens the
    mask allows. The first token stands for "no answer" and is no span.

    Args:
        start_logits: [tokens].
        end_logits: [tokens].
        mask: tokens that may begin or end an answer, and the first if it may mean "none" [tokens].
        search: what to look for.
    """
    starts = softmax(np.where(mask, start_logits, MASKED))
    ends = softmax(np.where(mask, end_logits, MASKED))
    null_score = float(starts[0] * ends[0])
    allowed = mask.copy()
    allowed[0] = False
    width = min(search.max_answer_len, ends.size)
    reachable = np.pad(np.where(allowed, ends, -1), (0, width - 1), constant_values=-1)
    # [first, n]: the span of n + 1 tokens from first; below 0 where there is none
    following = sliding_window_view(reachable, width)
    is_span = allowed[:, None] & (following >= 0)
    flat = np.where(is_span, starts[:, None] * following, -1).ravel()
    count = min(search.candidates, int(is_span.sum()))
    best = np.argpartition(-flat, min(count, flat.size - 1))[:count]
    best = best[np.argsort(-flat[best], kind="stable")]
    spans = tuple(
        Span(float(flat[at]), int(at) // width, int(at) // width + int(at) % width) for at in best
    )
    return Found(null_score, spans)
