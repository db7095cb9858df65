"""Calibration texts: read, cleaned, drawn, and turned into batches without padding."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..engines.text.encoder import TextEncoder, TruncationWarning
from ..errors import CalibrationError
from ..graph.tensors import Array, TensorSpec

DEFAULT_LIMIT = 512
"""Texts drawn by default; SmoothQuant statistics of MiniLM settle between 256 and 768 texts."""

BATCH_TOKENS = 1024
"""Tokens in one batch by default: enough to keep two cores busy, 66 MB of MiniLM taps."""

_CHUNK = 1024
"""Texts tokenised at a time."""

Rows = NDArray[np.int32]


class Encoding(Protocol):
    """One tokenised text, as the package ``tokenizers`` returns it."""

    @property
    def ids(self) -> list[int]:
        """Token ids, special tokens included, no padding."""

    @property
    def type_ids(self) -> list[int]:
        """Segment of each token."""

    @property
    def attention_mask(self) -> list[int]:
        """1 for a token, 0 for padding."""


class Tokenize(Protocol):
    """Turns texts into encodings, cut to the longest length the model takes."""

    def __call__(self, texts: Sequence[str]) -> Sequence[Encoding]:
        """Tokenise without padding, in order."""


@dataclass(frozen=True)
class Batch:
    """Texts of one length.

    Attributes:
        feeds: one array ``[texts, length]`` for each input of the graph.
        indices: which texts of the set these are.
        tokens: texts times length.
    """

    feeds: dict[str, Array]
    indices: tuple[int, ...]
    tokens: int


@dataclass(frozen=True, kw_only=True)
class CalibrationSet:
    """Texts to calibrate with: stripped, without blanks and duplicates, at most `limit` of them.

    Attributes:
        texts: in the order they were read.
        source: where they come from, for the report.
        duplicates: how many repeated texts were dropped.
        seen: distinct texts before the limit was applied.
    """

    texts: tuple[str, ...] = field(repr=False)
    source: str
    duplicates: int = 0
    seen: int

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        *,
        limit: int = DEFAULT_LIMIT,
        seed: int = 0,
        source: str = "texts",
    ) -> CalibrationSet:
        """Take texts from any iterable.

        Args:
            texts: each item is one text; line breaks inside a text are kept.
            limit: how many to draw at most, without replacement.
            seed: of the draw; the same seed and texts give the same set.
            source: how the report names them.

        Raises:
            CalibrationError: when an item is no string, or no text is left.
        """
        if isinstance(texts, str):
            raise CalibrationError(
                f"{source}: expected an iterable of texts, got one string; wrap it in a list"
            )
        if limit < 1:
            raise CalibrationError(f"{source}: expected a limit of at least 1 text, got {limit}")
        distinct: dict[str, None] = {}
        kept = 0
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str):
                raise CalibrationError(
                    f"{source}: item {number}: expected a text, got {type(text).__name__}"
                )
            clean = text.strip()
            if clean:
                kept += 1
                distinct[clean] = None
        if not distinct:
            raise CalibrationError(
                f"{source}: expected at least one text that is not blank, got none; "
                "give a file with one text a line"
            )
        drawn = _draw(list(distinct), limit, seed)
        return cls(
            texts=tuple(drawn), source=source, duplicates=kept - len(distinct), seen=len(distinct)
        )

    @classmethod
    def from_files(
        cls, paths: Sequence[str | Path], *, limit: int = DEFAULT_LIMIT, seed: int = 0
    ) -> CalibrationSet:
        """Read text files, one text a line, UTF-8.

        Raises:
            CalibrationError: when a file is missing, not UTF-8 (with the line) or holds NUL
                bytes, or when no line is left.
        """
        if not paths:
            raise CalibrationError("calibration: expected at least one text file, got none")
        files = [Path(path) for path in paths]
        lines = (line for path in files for line in _lines(path))
        source = ", ".join(path.name for path in files)
        return cls.from_texts(lines, limit=limit, seed=seed, source=source)

    @property
    def digest(self) -> str:
        """sha256 of the texts in order, each ended by a NUL byte."""
        sha = hashlib.sha256()
        for text in self.texts:
            sha.update(text.encode("utf-8", errors="surrogatepass") + b"\0")
        return sha.hexdigest()

    def split(self, held_out: int) -> tuple[CalibrationSet, CalibrationSet]:
        """Put every n-th text aside for measuring, so that about `held_out` of them are.

        Raises:
            CalibrationError: when fewer than two texts are there to be split.
        """
        if len(self.texts) < 2 or held_out < 1:
            raise CalibrationError(
                f"{self.source}: cannot hold out {held_out} of {len(self.texts)} texts"
            )
        step = max(2, len(self.texts) // held_out)
        held = self.texts[step - 1 :: step]
        rest = tuple(text for at, text in enumerate(self.texts) if (at + 1) % step)
        return replace(self, texts=rest), replace(self, texts=held)

    def batches(
        self, tokenize: Tokenize, inputs: Sequence[TensorSpec], *, max_tokens: int = BATCH_TOKENS
    ) -> tuple[Batch, ...]:
        """Tokenise, and put texts of equal length together, so that nothing is padded.

        Args:
            tokenize: the model's tokenizer, truncation included.
            inputs: the graph's inputs; input_ids, attention_mask, token_type_ids and position_ids
                can be filled.
            max_tokens: tokens a batch; a longer text is a batch of its own.

        Returns:
            Batches from the shortest to the longest texts.

        Raises:
            CalibrationError: when the graph has an input that text does not fill, or the
                tokenizer pads or gives no token for any text.
        """
        _check_inputs(inputs)
        rows = _tokenized(self.texts, tokenize)
        lengths: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            lengths.setdefault(row.shape[1], []).append(index)
        lengths.pop(0, None)
        if not lengths:
            raise CalibrationError(
                f"{self.source}: the tokenizer gives no token for any of {len(self.texts)} texts"
            )
        return tuple(
            _batch(np.stack([rows[at] for at in indices]), indices, inputs)
            for length in sorted(lengths)
            for indices in _chunks(lengths[length], max(1, max_tokens // length))
        )


def default_corpus(*, limit: int = DEFAULT_LIMIT, seed: int = 0) -> CalibrationSet:
    """The corpus that ships with fuselage, for when the user gives no text.

    Written for this purpose: one word to about 256 tokens, many domains, several languages, code.
    """
    text = resources.files(__package__).joinpath("corpus.txt").read_text(encoding="utf-8")
    return CalibrationSet.from_texts(
        text.splitlines(), limit=limit, seed=seed, source="default corpus"
    )


def tokenize_with(encoder: TextEncoder) -> Tokenize:
    """Tokenise as the bundle will: with the model's tokenizer, prompt and longest length.

    A text that is cut still shows the model what it will see, so no warning is given for it.
    """
    prompt = encoder.spec.prompts.get(encoder.spec.default_prompt or "", "")

    def tokenize(texts: Sequence[str]) -> Sequence[Encoding]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            return encoder.encode([prompt + text for text in texts]).encodings

    return tokenize


def _lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file; a byte order mark is dropped."""
    if not path.is_file():
        raise CalibrationError(f"{path}: no such file; expected UTF-8 text, one text a line")
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if b"\0" in raw:
                raise CalibrationError(
                    f"{path}: line {number} holds a NUL byte; expected UTF-8 text, one text a "
                    "line, this looks like a binary or UTF-16 file"
                )
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise CalibrationError(
                    f"{path}: line {number} is not UTF-8 (byte {raw[error.start]:#04x} at column "
                    f"{error.start + 1}); convert the file to UTF-8"
                ) from error


def _draw(texts: list[str], limit: int, seed: int) -> list[str]:
    """At most `limit` texts, in the order they were read."""
    if len(texts) <= limit:
        return texts
    chosen = np.random.default_rng(seed).choice(len(texts), size=limit, replace=False)
    return [texts[index] for index in np.sort(chosen)]


def _check_inputs(inputs: Sequence[TensorSpec]) -> None:
    unknown = [spec.name for spec in inputs if spec.name not in _FILL]
    if unknown:
        raise CalibrationError(
            f"input {unknown[0]!r}: text cannot fill it; expected inputs among {sorted(_FILL)}"
        )


def _tokenized(texts: Sequence[str], tokenize: Tokenize) -> list[Rows]:
    """Token ids and segments of each text, ``[2, length]``; the bulky encodings are let go."""
    rows = []
    for start in range(0, len(texts), _CHUNK):
        for encoding in tokenize(texts[start : start + _CHUNK]):
            if 0 in encoding.attention_mask:
                raise CalibrationError(
                    f"tokenizer: expected rows without padding, got {len(encoding.ids)} tokens of "
                    f"which {encoding.attention_mask.count(0)} are padding; padding would count as "
                    "activations, so turn it off"
                )
            rows.append(np.array([encoding.ids, encoding.type_ids], np.int32))
    return rows


def _batch(rows: Rows, indices: Sequence[int], inputs: Sequence[TensorSpec]) -> Batch:
    feeds: dict[str, Array] = {
        spec.name: np.ascontiguousarray(_FILL[spec.name](rows).astype(spec.dtype))
        for spec in inputs
    }
    return Batch(feeds, tuple(indices), rows[:, 0].size)


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


_FILL: Mapping[str, Callable[[Rows], Rows]] = {
    "input_ids": lambda rows: rows[:, 0],
    "attention_mask": lambda rows: np.ones_like(rows[:, 0]),
    "token_type_ids": lambda rows: rows[:, 1],
    "position_ids": lambda rows: np.cumsum(np.ones_like(rows[:, 0]), axis=1) - 1,
}
"""How each input is filled from ids and segments ``[texts, 2, length]``."""
