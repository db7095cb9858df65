"""How long the user's texts are, in tokens of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...calibration.text.data import CalibrationSet
from ...calibration.text.tokenization import tokenize_with
from ...engines.text.encoder import TextEncoder

_CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """A histogram of lengths.

    Attributes:
        counts: tokens, special tokens included, after the cut -> texts; no zeros.
        source: where the texts come from, for the report.
    """

    counts: Mapping[int, int] = field(repr=False)
    source: str

    @classmethod
    def of(cls, texts: CalibrationSet, encoder: TextEncoder) -> Lengths:
        """Tokenise texts as the bundle will.

        Raises:
            CalibrationError: when the tokenizer cannot take a text.
        """
        tokenize = tokenize_with(encoder)
        counts: Counter[int] = Counter()
        for start in range(0, len(texts.texts), _CHUNK):
            rows = tokenize(texts.texts[start : start + _CHUNK])
            counts.update(max(1, len(row.ids)) for row in rows)
        return cls(counts=dict(sorted(counts.items())), source=texts.source)

    @property
    def texts(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    @property
    def tokens(self) -> int:
        """Of all texts together."""
        return sum(length * count for length, count in self.counts.items())
