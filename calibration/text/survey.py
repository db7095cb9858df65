"""What calibration text looks like to the model's tokenizer, and what the user should know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from ...engines.text.encoder import TextEncoder
from ...engines.text.task import TaskSpec
from .data import CalibrationSet
from .samples import Sample, TokenIds
from .tokenization import id_limit, tokenize_with

T = TypeVar("T")

UNKNOWN_SHARE = 0.05
"""More unknown tokens than this: the shipped corpus, in twenty languages, gives MiniLM 1.2 %."""

CHARACTERS_A_TOKEN = 1.5
"""Below this a large vocabulary spells instead of reading: MiniLM has 3.5 on the shipped corpus and
1.1 on Russian, which it was not made for."""

_LARGE_VOCABULARY = 1024
"""Smaller ones are of characters or bytes, and spell everything."""

_CUT_SHARE = 0.25
_SHORT_SHARE = 0.25
"""A longest text below this part of what the model takes leaves the ranges of long ones unseen."""

_CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Facts of a calibration set; no text.

    Attributes:
        source: where the texts come from.
        texts: how many there are.
        seen: distinct texts they were drawn from.
        duplicates: repeated texts that were dropped.
        blank: rows without text.
        digest: of the texts.
        tokens: how many tokens all texts have, special tokens included, after the cut.
        shortest: tokens of the shortest text.
        median: tokens of the middle text.
        longest: tokens of the longest text.
        takes: tokens the model takes.
        pairs: how many of the texts are pairs.
        reads_pairs: whether the model is made for pairs.
        cut: texts longer than the model takes.
        vocabulary: tokens the tokenizer has.
        vocabulary_share: part of the vocabulary that occurs.
        unknown_share: part of the tokens of the texts that stand for what is not in the vocabulary.
        characters_a_token: characters of the texts for each of their tokens, one of Chinese,
            Japanese or Korean counted as three; 0 when only token ids were given.
    """

    source: str
    texts: int
    seen: int
    duplicates: int
    blank: int
    digest: str
    tokens: int
    shortest: int
    median: int
    longest: int
    takes: int
    pairs: int
    reads_pairs: bool
    cut: int
    vocabulary: int
    vocabulary_share: float
    unknown_share: float
    characters_a_token: float

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def notes(self) -> Iterator[str]:
        """What the user should know, one sentence each."""
        if self.blank:
            yield f"calibration text: {self.blank} blank rows of {self.source} were left out"
        if self.cut > _CUT_SHARE * self.texts:
            yield (
                f"calibration text: {self.cut} of {self.texts} texts are longer than the model "
                f"takes and were cut to {self.longest} tokens; split them to calibrate on all"
            )
        if self.longest < _SHORT_SHARE * self.takes:
            yield (
                f"calibration text: the longest text of {self.source} has {self.longest} tokens, "
                f"the model takes {self.takes}; what longer texts need was not seen, give "
                "some that are as long as those the model will read"
            )
        if self.reads_pairs and self.pairs < self.texts:
            yield (
                f"calibration text: {self.texts - self.pairs} of {self.texts} texts of "
                f"{self.source} are single, and the model reads pairs; give pairs, with "
                "--text-column twice"
            )
        if self.unknown_share > UNKNOWN_SHARE:
            yield (
                f"calibration text: the tokenizer does not know {self.unknown_share:.0%} of the "
                f"tokens of {self.source}, so the ranges may fit no real text; give text in a "
                "language of the model"
            )
        elif self._is_spelled:
            yield (
                f"calibration text: the tokenizer spells {self.source} in tokens of "
                f"{self.characters_a_token:.1f} characters, as it does with languages it was not "
                "made for, so the ranges may fit no real text; give text in a language of the model"
            )

    @property
    def _is_spelled(self) -> bool:
        is_large = self.vocabulary > _LARGE_VOCABULARY
        return is_large and 0 < self.characters_a_token < CHARACTERS_A_TOKEN


def survey(data: CalibrationSet, encoder: TextEncoder) -> Survey:
    """Tokenise the set and count.

    Args:
        data: the texts.
        encoder: of the model that is calibrated.

    Raises:
        CalibrationError: when the tokenizer cannot take a sample.
    """
    tokenize = tokenize_with(encoder)
    used = np.zeros(id_limit(encoder), np.bool_)
    lengths: list[int] = []
    cut = 0
    for samples in _chunks(data.texts):
        for row in tokenize(samples):
            lengths.append(len(row.ids))
            used[row.ids] = True
            cut += len(row.ids) == encoder.max_tokens and bool(row.overflowing)
    vocabulary = encoder.tokenizer.get_vocab_size(with_added_tokens=True)
    unknown_share, characters_a_token = _spelling(data.texts, encoder)
    return Survey(
        source=data.source,
        texts=len(data.texts),
        seen=data.seen,
        duplicates=data.duplicates,
        blank=data.blank,
        digest=data.digest,
        tokens=sum(lengths),
        shortest=min(lengths),
        median=int(np.median(lengths)),
        longest=max(lengths),
        takes=encoder.max_tokens,
        pairs=sum(isinstance(sample, tuple) for sample in data.texts),
        reads_pairs=_reads_pairs(encoder.spec),
        cut=cut,
        vocabulary=vocabulary,
        vocabulary_share=round(int(used.sum()) / vocabulary, 4),
        unknown_share=round(unknown_share, 4),
        characters_a_token=round(characters_a_token, 2),
    )


def _spelling(samples: Sequence[Sample], encoder: TextEncoder) -> tuple[float, float]:
    """Share of unknown tokens, and characters a token, without prompt and special tokens.

    Texts that are cut count for neither, because it is not known which characters are left.
    """
    unknown_id = _unknown_id(encoder)
    texts = [part for sample in samples for part in _parts(sample)]
    tokens = unknown = size = 0
    for chunk in _chunks(texts):
        rows = encoder.tokenizer.encode_batch_fast(list(chunk), add_special_tokens=False)
        for text, row in zip(chunk, rows, strict=True):
            if len(row) < encoder.max_tokens:
                tokens += len(row)
                unknown += row.ids.count(unknown_id)
                size += _characters(text)
    return unknown / max(1, tokens), size / max(1, tokens)


def _reads_pairs(spec: TaskSpec) -> bool:
    """Whether a model answers questions, compares two texts, or tells what follows from one.

    A classifier with one label is a score of how a text fits another; the labels of inference say
    whether one entails another.
    """
    if spec.task != "sequence-classification":
        return spec.task == "question-answering"
    return len(spec.labels) == 1 or any("entail" in label.lower() for label in spec.labels)


def _unknown_id(encoder: TextEncoder) -> int:
    """Id of the token for what is not in the vocabulary, -1 when there is none."""
    if encoder.spec.unk_token_id is not None:
        return encoder.spec.unk_token_id
    name = getattr(encoder.tokenizer.model, "unk_token", None) or "<unk>"
    found = encoder.tokenizer.token_to_id(name)
    return -1 if found is None else found


def _characters(text: str) -> int:
    """Characters, those of Chinese, Japanese and Korean as three: one is about half a word."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    is_wide = (codes >= 0x2E80) & (codes <= 0xD7FF) | (codes >= 0x20000)
    return codes.size + 2 * int(np.count_nonzero(is_wide))


def _parts(sample: Sample) -> tuple[str, ...]:
    if isinstance(sample, TokenIds):
        return ()
    return (sample,) if isinstance(sample, str) else sample


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]
