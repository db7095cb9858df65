"""Text to feeds: the bundle's tokenizer with our own truncation and padding."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import BundleError, MissingPackageError
from ...graph.tensors import Array
from .batching import Indices, Lengths
from .task import Side, TaskSpec
from .texts import Text, checked

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Mask = NDArray[np.bool_]


class TruncationWarning(UserWarning):
    """Texts were longer than the model takes and lost their end (or start)."""


@dataclass(frozen=True)
class Encoded:
    """Tokenised texts, without padding.

    Attributes:
        encodings: one a row, special tokens included.
        sources: index of the text each row comes from [rows]; a long text may have many rows.
        lengths: tokens of each row [rows].
    """

    encodings: tuple[Encoding, ...]
    sources: Indices
    lengths: Lengths


class TextEncoder:
    """Tokenises texts and pads them into feeds; may be used by threads.

    The truncation and padding that tokenizer.json carries are training leftovers (all-MiniLM-L6-v2
    cuts at 128 and pads everything to 128) and are replaced: texts are cut at the model's limit,
    pairs from their longer half first, and padded only to the longest of a batch. transformers and
    sentence-transformers do the same; the latter cuts at ``max_seq_length`` of
    sentence_bert_config.json (256 for that model) when there is one, else at the smaller of the
    tokenizer's ``model_max_length`` and the model's positions: that is ``TaskSpec.max_tokens``.

    Attributes:
        spec: as given.
        max_tokens: where texts are cut, special tokens included.

    Args:
        path: tokenizer.json.
        spec: the task.
        max_sequence: largest sequence the engine takes, when that is less than the model's.

    Raises:
        BundleError: when the file is missing, no tokenizer, or its special tokens alone fill
            max_tokens.
        MissingPackageError: when `tokenizers` is not installed.
    """

    def __init__(self, path: Path, spec: TaskSpec, max_sequence: int | None = None) -> None:
        self.spec = spec
        self.max_tokens = min(spec.max_tokens, max_sequence or spec.max_tokens)
        self._tokenizer = _load(path, spec)
        self._lock = threading.Lock()
        self._windows: Tokenizer | None = None
        special = self.special_tokens(pair=False)
        if special >= self.max_tokens:
            raise BundleError(
                f"{path}: texts are cut at {self.max_tokens} tokens, of which {special} are "
                "special tokens; rebuild with a longer maximum sequence"
            )
        _set_truncation(self._tokenizer, self.max_tokens, 0, "longest_first", spec.truncation_side)

    @property
    def tokenizer(self) -> Tokenizer:
        """For vocabulary look-ups; its settings must not be changed."""
        return self._tokenizer

    def special_tokens(self, *, pair: bool) -> int:
        """Number of special tokens added to a text or to a pair."""
        return self._tokenizer.num_special_tokens_to_add(pair)

    def encode(self, texts: Sequence[Text], *, offsets: bool = False) -> Encoded:
        """Tokenise, one row a text; texts beyond `max_tokens` are cut with one TruncationWarning.

        Args:
            texts: non-empty texts or pairs.
            offsets: also track characters, words and offsets (slower).

        Raises:
            TextError: when there is no text, or one is empty or no text; it says which.
        """
        checked(texts)
        encode = self._tokenizer.encode_batch if offsets else self._tokenizer.encode_batch_fast
        encoded = _rows(encode(list(texts)))
        full = np.flatnonzero(encoded.lengths == self.max_tokens)
        cut = [int(row) for row in full if encoded.encodings[row].overflowing]
        if cut:
            shown = ", ".join(map(str, cut[:5])) + (", ..." if len(cut) > 5 else "")
            warnings.warn(
                f"{len(cut)} of {len(texts)} texts are longer than {self.max_tokens} tokens and "
                f"were cut to {self.max_tokens} (index {shown}); split them to use all of the text",
                TruncationWarning,
                stacklevel=3,
            )
        return encoded

    def encode_windows(
        self, texts: Sequence[Text], *, max_tokens: int, stride: int, strategy: str
    ) -> Encoded:
        """Tokenise into overlapping windows instead of cutting; offsets are tracked.

        Args:
            texts: non-empty texts or pairs.
            max_tokens: of a window, special tokens included.
            stride: tokens that neighbouring windows share; less than the room for text.
            strategy: which text of a pair is cut: longest_first, only_first or only_second; the
                other stands whole in every window and must leave room.

        Raises:
            TextError: as `encode`.
        """
        checked(texts)
        with self._lock:
            if self._windows is None:
                self._windows = type(self._tokenizer).from_str(self._tokenizer.to_str())
            _set_truncation(self._windows, max_tokens, stride, strategy, self.spec.truncation_side)
            whole = self._windows.encode_batch(list(texts))
        windows = [[encoding, *encoding.overflowing] for encoding in whole]
        counts = [len(group) for group in windows]
        return _rows(list(chain.from_iterable(windows)), np.repeat(np.arange(len(texts)), counts))

    def count_tokens(self, texts: Sequence[str]) -> Lengths:
        """Tokens of each text without special tokens, but at most `max_tokens`."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return np.fromiter(map(len, encodings), np.int64, len(encodings))

    def token_id(self, text: str) -> int | None:
        """Id of a token of the vocabulary, or of a text that is one token; else None."""
        token = self._tokenizer.token_to_id(text)
        if token is not None:
            return token
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids[0] if len(ids) == 1 and ids[0] != self.spec.unk_token_id else None

    def mask(self, lengths: Lengths, width: int) -> Mask:
        """Where the tokens stand after padding: bool [batch, width]."""
        columns = np.arange(width)
        if self.spec.padding_side == "left":
            return columns >= width - lengths[:, None]
        return columns < lengths[:, None]

    def feeds(self, encoded: Encoded, rows: Indices, min_sequence: int = 1) -> dict[str, Array]:
        """Pad rows to the longest of them.

        Args:
            encoded: of this encoder.
            rows: which of its rows.
            min_sequence: pad at least to this width.

        Returns:
            int64 [rows, width] for every input of the task.
        """
        lengths = encoded.lengths[rows]
        mask = self.mask(lengths, max(int(lengths.max()), min_sequence))
        encodings = [encoded.encodings[row] for row in rows]
        feeds: dict[str, Array] = {}
        for name in self.spec.inputs:
            if name == "attention_mask":
                feeds[name] = mask.astype(np.int64)
            elif name == "token_type_ids":
                types = (encoding.type_ids for encoding in encodings)
                feeds[name] = _scatter(types, mask, self.spec.pad_token_type_id)
            else:
                ids = (encoding.ids for encoding in encodings)
                feeds[name] = _scatter(ids, mask, self.spec.pad_token_id)
        return feeds

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool) -> str:
        """Tokens back to text; blanks before punctuation go where the task says so."""
        text = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        if not self.spec.clean_up_spaces:
            return text
        for ugly, clean in _CLEAN_UP:
            text = text.replace(ugly, clean)
        return text


_CLEAN_UP = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    *((f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")),
)
"""In this order, as transformers cleans decoded text."""


def _load(path: Path, spec: TaskSpec) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
        from tokenizers.normalizers import Lowercase, Normalizer, Sequence
    except ImportError as error:
        raise MissingPackageError("tokenizers", "cpu", "turning text into tokens") from error
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{path}: the tokenizer cannot be read: {error}") from error
    except Exception as error:  # the binding raises a bare Exception for every fault of the file
        raise BundleError(f"{path}: expected a tokenizer.json, got: {error}") from error
    tokenizer.no_padding()
    if spec.lowercase:
        normalizer: Normalizer | None = tokenizer.normalizer
        lower = Lowercase()
        tokenizer.normalizer = lower if normalizer is None else Sequence([lower, normalizer])
    return tokenizer


def _set_truncation(
    tokenizer: Tokenizer, max_tokens: int, stride: int, strategy: str, side: Side
) -> None:
    tokenizer.enable_truncation(max_tokens, stride=stride, strategy=strategy, direction=side)


def _rows(encodings: list[Encoding], sources: Indices | None = None) -> Encoded:
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    return Encoded(
        tuple(encodings), np.arange(len(encodings)) if sources is None else sources, lengths
    )


def _scatter(rows: Iterable[list[int]], mask: Mask, padding: int) -> Array:
    padded = np.full(mask.shape, padding, np.int64)
    padded[mask] = np.fromiter(chain.from_iterable(rows), np.int64, int(mask.sum()))
    return padded
