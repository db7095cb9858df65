"""Token scores to entities, by the aggregation rules of the token-classification pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .scores import Floats
from .task import TaskSpec

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What the labels and tokens of a model mean.

    Attributes:
        tokenizer: joins tokens to words.
        has_prefix: tokens inside a word carry a prefix (``##``), so a token that is longer than the
            text it stands for continues a word.
        unk_token_id: token that stands for text outside the vocabulary; None when there is none.
        labels: name of each label.
        tags: number of each label's tag; B-X and I-X share one.
        begins: labels B-X.
    """

    tokenizer: Tokenizer
    has_prefix: bool
    unk_token_id: int | None
    labels: tuple[str, ...]
    tags: Ints
    begins: NDArray[np.bool_]

    @classmethod
    def of(cls, tokenizer: Tokenizer, spec: TaskSpec) -> Vocabulary:
        """Read it from a tokenizer and a task."""
        from tokenizers.models import BPE, WordPiece

        model = tokenizer.model
        tags = [label[2:] if label.startswith(("B-", "I-")) else label for label in spec.labels]
        return cls(
            tokenizer=tokenizer,
            has_prefix=isinstance(model, (BPE, WordPiece))
            and bool(model.continuing_subword_prefix),
            unk_token_id=spec.unk_token_id,
            labels=spec.labels,
            tags=np.array([tags.index(tag) for tag in tags]),
            begins=np.array([label.startswith("B-") for label in spec.labels]),
        )

    def join(self, tokens: list[str]) -> str:
        """Tokens (or words) to text."""
        decoder = self.tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(tokens)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of one text, special tokens left out; all arrays have one entry a token.

    Attributes:
        vocabulary: of the model.
        words: the token, or the source text where it is unknown.
        scores: float32 [tokens, labels], softmaxed.
        spans: start and end of each in characters, int64 [tokens, 2].
        index: position among all tokens of the text.
        inside: whether it continues a word.
    """

    vocabulary: Vocabulary
    words: list[str]
    scores: Floats
    spans: Ints
    index: Ints
    inside: NDArray[np.bool_]

    @classmethod
    def of(cls, encoding: Encoding, scores: Floats, text: str, vocabulary: Vocabulary) -> Tokens:
        """Collect what aggregation needs from one encoding and its scores [tokens, labels]."""
        index = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
        spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)[index]
        unknown = np.array(encoding.ids)[index] == vocabulary.unk_token_id
        words = np.array(encoding.tokens, object)[index].tolist()
        sizes = np.fromiter(map(len, words), np.int64, len(words))
        if vocabulary.has_prefix:
            inside = sizes != spans[:, 1] - spans[:, 0]
        else:
            inside = touches_no_blank(text, spans[:, 0])
        for token in np.flatnonzero(unknown):
            words[token] = text[slice(*spans[token])]
        return cls(
            vocabulary=vocabulary,
            words=words,
            scores=scores[index],
            spans=spans,
            index=index,
            inside=inside & ~unknown,
        )


@dataclass(frozen=True, kw_only=True)
class _Units:
    """Tokens or words with the label each was given; arrays have one entry a unit."""

    words: Sequence[str]
    labels: Ints
    scores: Floats
    starts: Ints
    ends: Ints


def aggregate(tokens: Tokens, strategy: str, ignored: frozenset[str]) -> list[dict[str, Any]]:
    """Make entities of tokens.

    Args:
        tokens: of one text.
        strategy: none, simple, first, average or max.
        ignored: labels or groups to leave out.

    Returns:
        One dict an entity, in the order of the text, with the keys of transformers.
    """
    if not tokens.words:
        return []
    if strategy == "none":
        return _labelled(tokens, ignored)
    units = _units(tokens) if strategy == "simple" else _words(tokens, strategy)
    return _groups(units, tokens.vocabulary, ignored)


def keep_longest(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that overlap keep the longer, of equally long ones the one that scores higher."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: int(entity["start"])):
        if not kept or entity["start"] >= kept[-1]["end"]:
            kept.append(entity)
        elif _weight(entity) > _weight(kept[-1]):
            kept[-1] = entity
    return kept


def _weight(entity: dict[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]


def touches_no_blank(text: str, starts: Ints) -> NDArray[np.bool_]:
    """Whether each token continues a word: no blank stands before or at its start.

    The rule of transformers for vocabularies without a prefix for such tokens.

    Args:
        text: of the tokens.
        starts: character each begins at [tokens].
    """
    blank = np.frombuffer(f"{text} ".encode("utf-32-le"), np.uint32) == ord(" ")
    blank[-1] = False
    has_blank = blank[starts] | blank[np.maximum(starts - 1, 0)]
    return np.asarray((starts > 0) & ~has_blank, np.bool_)


def _labelled(tokens: Tokens, ignored: frozenset[str]) -> list[dict[str, Any]]:
    names = tokens.vocabulary.labels
    units = _units(tokens)
    wanted = np.array([name not in ignored for name in names])[units.labels]
    kept = np.flatnonzero(wanted)
    columns = (kept, units.labels[kept], units.scores[kept], tokens.index[kept])
    rows = zip(*(column.tolist() for column in columns), tokens.spans[kept].tolist(), strict=True)
    return [
        {
            "entity": names[label],
            "score": score,
            "index": index,
            "word": tokens.words[token],
            "start": start,
            "end": end,
        }
        for token, label, score, index, (start, end) in rows
    ]


def _units(tokens: Tokens) -> _Units:
    return _Units(
        words=tokens.words,
        labels=tokens.scores.argmax(axis=1),
        scores=tokens.scores.max(axis=1),
        starts=tokens.spans[:, 0],
        ends=tokens.spans[:, 1],
    )


def _words(tokens: Tokens, strategy: str) -> _Units:
    begins = np.flatnonzero(~tokens.inside)
    if begins.size == 0 or begins[0] != 0:
        begins = np.concatenate([[0], begins])
    ends = np.append(begins[1:], len(tokens.words))
    scores = _word_scores(tokens.scores, begins, ends, strategy)
    return _Units(
        words=[
            tokens.vocabulary.join(tokens.words[begin:end])
            for begin, end in zip(begins, ends, strict=True)
        ],
        labels=scores.argmax(axis=1),
        scores=scores.max(axis=1),
        starts=tokens.spans[begins, 0],
        ends=tokens.spans[ends - 1, 1],
    )


def _word_scores(scores: Floats, begins: Ints, ends: Ints, strategy: str) -> Floats:
    if strategy == "first":
        return scores[begins]
    if strategy == "average":
        means = np.add.reduceat(scores, begins, axis=0) / (ends - begins)[:, None]
        return np.asarray(means, np.float32)
    best = scores.max(axis=1)
    # token order breaks ties, as max() over the tokens of a word does
    ranked = np.lexsort((-best, np.repeat(np.arange(begins.size), ends - begins)))
    return scores[ranked[begins]]


def _groups(units: _Units, vocabulary: Vocabulary, ignored: frozenset[str]) -> list[dict[str, Any]]:
    tags = vocabulary.tags[units.labels]
    splits = (tags[1:] != tags[:-1]) | vocabulary.begins[units.labels[1:]]
    begins = np.concatenate([[0], np.flatnonzero(splits) + 1])
    ends = np.append(begins[1:], len(units.words))
    groups = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        name = vocabulary.labels[units.labels[begin]].split("-", 1)[-1]
        if name in ignored:
            continue
        groups.append(
            {
                "entity_group": name,
                "score": float(units.scores[begin:end].mean()),
                "word": vocabulary.join(list(units.words[begin:end])),
                "start": int(units.starts[begin]),
                "end": int(units.ends[end - 1]),
            }
        )
    return groups
