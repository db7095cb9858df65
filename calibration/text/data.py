"""Calibration texts: read, cleaned, drawn, and turned into batches without padding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import chain
from pathlib import Path

from ...engines.text.texts import Text
from ...errors import CalibrationError
from ...graph.tensors import TensorSpec
from .batches import BATCH_TOKENS, Batch, Batches
from .samples import Draw, Sample, TokenIds, cleaned, digest_of, draw_key, sample_size
from .sources import STANDARD_INPUT, read_samples, source_name
from .tokenization import Tokenize

DEFAULT_LIMIT = 512
"""Texts drawn by default; SmoothQuant statistics of MiniLM settle between 256 and 768 texts."""

_COUNTED = 1 << 15
"""Keys kept for counting distinct texts: exact up to twice as many, within 0.6 % beyond."""


@dataclass(frozen=True, kw_only=True)
class CalibrationSet:
    """Texts to calibrate with: stripped, without blanks and duplicates, at most `limit` of them.

    What is drawn, and in which order it stands, depends on the texts and the seed alone: the same
    texts in another order, or some of them twice, give the same set.

    Attributes:
        texts: texts, pairs or token ids in the order of the draw, so that the first n of them are
            a sample as well.
        source: where they come from, for the report.
        seen: distinct texts before the limit was applied; an estimate beyond 65,536.
        duplicates: how many repeated texts were dropped; an estimate where `seen` is one.
        blank: how many rows without text were left out.
    """

    texts: tuple[Sample, ...] = field(repr=False)
    source: str
    seen: int
    duplicates: int = 0
    blank: int = 0

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[Text | Sequence[int] | TokenIds],
        *,
        limit: int = DEFAULT_LIMIT,
        seed: int = 0,
        source: str = "texts",
    ) -> CalibrationSet:
        """Take texts from any iterable; it is read once, and only what is drawn is kept.

        Args:
            texts: each item is one text, a pair of texts for a model that reads two at once, or
                the token ids of one text; line breaks inside a text are kept.
            limit: how many to draw at most, without replacement.
            seed: of the draw; the same seed and texts give the same set, in whatever order.
            source: how the report names them.

        Raises:
            CalibrationError: when an item is none of these, or none is left.
        """
        if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
            raise CalibrationError(
                f"{source}: expected an iterable of texts, got one {type(texts).__name__}; wrap a "
                "text in a list"
            )
        items = enumerate(texts, start=1)
        samples = (cleaned(item, f"{source}: item {number}") for number, item in items)
        return cls._drawn(samples, limit, seed, source)

    @classmethod
    def from_files(
        cls,
        paths: Sequence[str | Path],
        *,
        columns: Sequence[str] = (),
        limit: int = DEFAULT_LIMIT,
        seed: int = 0,
    ) -> CalibrationSet:
        """Read files, folders and standard input, as `sources.read_samples` does.

        Args:
            paths: each a file, a folder with data files, or ``-``.
            columns: of JSON lines, tables and datasets: one, or two for pairs; empty to take the
                usual one.
            limit: how many samples to draw at most.
            seed: of the draw.

        Raises:
            CalibrationError: when a source is missing or unusable, with the line, or no text is
                left.
            MissingPackageError: for .parquet and .arrow without pyarrow.
        """
        if not paths:
            raise CalibrationError("calibration: expected at least one text file, got none")
        if [str(path) for path in paths].count(STANDARD_INPUT) > 1:
            raise CalibrationError(
                "calibration: standard input can be read once, it is named twice"
            )
        samples = chain.from_iterable(read_samples(path, columns) for path in paths)
        return cls._drawn(samples, limit, seed, ", ".join(map(source_name, paths)))

    @classmethod
    def _drawn(
        cls, samples: Iterable[Sample | None], limit: int, seed: int, source: str
    ) -> CalibrationSet:
        if limit < 1:
            raise CalibrationError(f"{source}: expected a limit of at least 1 text, got {limit}")
        draw: Draw[Sample] = Draw(limit)
        counted: Draw[None] = Draw(_COUNTED)
        kept = blank = 0
        for sample in samples:
            if sample is None:
                blank += 1
                continue
            kept += 1
            key = draw_key(sample, seed)
            draw.add(key, sample)
            counted.add(key, None)
        if not kept:
            raise CalibrationError(
                f"{source}: expected at least one text that is not blank, got none; "
                "give a file with one text a line"
            )
        seen = min(kept, counted.distinct)
        return cls(
            texts=tuple(draw.entries), source=source, seen=seen, duplicates=kept - seen, blank=blank
        )

    @property
    def digest(self) -> str:
        """sha256 that depends on the texts alone, not on their order or source."""
        return digest_of(self.texts)

    def split(self, held_out: int) -> tuple[CalibrationSet, CalibrationSet]:
        """Put every n-th text by length aside for measuring, so that about `held_out` of them are.

        Raises:
            CalibrationError: when fewer than two texts are there to be split.
        """
        if len(self.texts) < 2 or held_out < 1:
            raise CalibrationError(
                f"{self.source}: cannot hold out {held_out} of {len(self.texts)} texts"
            )
        step = max(2, len(self.texts) // held_out)
        by_length = sorted(range(len(self.texts)), key=lambda at: sample_size(self.texts[at]))
        aside = set(by_length[step - 1 :: step])
        rest = tuple(text for at, text in enumerate(self.texts) if at not in aside)
        held = tuple(text for at, text in enumerate(self.texts) if at in aside)
        return replace(self, texts=rest), replace(self, texts=held)

    def batches(
        self, tokenize: Tokenize, inputs: Sequence[TensorSpec], *, max_tokens: int = BATCH_TOKENS
    ) -> Sequence[Batch]:
        """Tokenise, and put texts of equal length together, so that nothing is padded.

        Args:
            tokenize: the model's tokenizer, truncation included.
            inputs: the graph's inputs; input_ids, attention_mask, token_type_ids and position_ids
                can be filled.
            max_tokens: tokens a batch; a longer text is a batch of its own.

        Returns:
            Batches from the shortest to the longest texts, each made when it is asked for.

        Raises:
            CalibrationError: when the graph has an input that text does not fill, or the
                tokenizer pads or gives no token for any text.
        """
        batches = Batches.of(self.texts, tokenize, inputs, max_tokens)
        if not batches:
            raise CalibrationError(
                f"{self.source}: the tokenizer gives no token for any of {len(self.texts)} texts"
            )
        return batches


def default_corpus(*, limit: int = DEFAULT_LIMIT, seed: int = 0) -> CalibrationSet:
    """The corpus that ships with fuselage, for when the user gives no text.

    Written for this purpose: one word to about 256 tokens, many domains, several languages, code.
    """
    text = resources.files(__package__).joinpath("corpus.txt").read_text(encoding="utf-8")
    return CalibrationSet.from_texts(
        text.splitlines(), limit=limit, seed=seed, source="default corpus"
    )
