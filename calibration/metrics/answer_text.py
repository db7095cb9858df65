"""F1 and exact match of answers to questions, as SQuAD counts them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from .base import Metric, Rows, mean

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_DROPPED = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single blanks.

    Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text, 2016, section 6.1
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DROPPED)).split())


def exact_match(answer: str, expected: str) -> float:
    """1 when both are the same after normalisation."""
    return float(normalized(answer) == normalized(expected))


def word_f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall over words, as a multiset.

    An empty answer, which means "none", is right or wrong as a whole (SQuAD 2.0, 2018).
    """
    got, wanted = normalized(answer).split(), normalized(expected).split()
    if not got or not wanted:
        return float(got == wanted)
    shared = sum((Counter(got) & Counter(wanted)).values())
    return 2 * shared / (len(got) + len(wanted))


Match = Callable[[str, str], float]


def _best(match: Match) -> Callable[[Sequence[str], Sequence[Sequence[str]]], Rows]:
    """Rows of the best match among the answers that were expected of each example."""

    def rows(answers: Sequence[str], expected: Sequence[Sequence[str]]) -> Rows:
        pairs = zip(answers, expected, strict=True)
        best = [max(match(answer, one) for one in known) for answer, known in pairs]
        return np.asarray(best, np.float64)[:, None]

    return rows


ANSWER_F1 = Metric(name="f1", title="word F1 of the answers", rows=_best(word_f1), value=mean)
EXACT_MATCH = Metric(
    name="exact_match", title="exact match of the answers", rows=_best(exact_match), value=mean
)
