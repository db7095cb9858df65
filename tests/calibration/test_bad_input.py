"""All the bad input a user can give to calibration: one clear error, or a warning with a name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import fuselage
from fuselage.calibration.text.data import CalibrationSet
from fuselage.calibration.text.survey import survey
from fuselage.compiler.cli import run
from fuselage.compiler.progress import Journal, Silent
from fuselage.compiler.quantization.quantize import quantize
from fuselage.engines.text.encoder import TextEncoder
from fuselage.engines.text.task import TaskSpec
from fuselage.errors import CalibrationError
from fuselage.graph.model import Graph

WORDS = ("cat", "dog", "bird", "fish", "house", "tree", "sees", "eats", "small", "large")
TEXTS = [f"{a} {b} {c}" for a in WORDS for b in ("sees", "eats") for c in WORDS[:4]]
SPEC = TaskSpec(
    task="embedding",
    inputs=("input_ids", "attention_mask"),
    outputs=("embedding",),
    max_tokens=16,
    dimension=32,
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    vocabulary = {"[UNK]": 0} | {word: number for number, word in enumerate(WORDS, start=1)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


@pytest.fixture
def journal() -> Journal:
    return Journal(Silent())


def weighted(graph: Graph, **arrays: np.ndarray) -> Graph:
    """The tiny model with other weights."""
    for name, array in arrays.items():
        value = graph.model.graph.initializers[name]
        value.const_value = ir.tensor(array.astype(np.float32), name=name)
    return graph


# --- on the command line: one message, exit status 1, nothing exported, nothing written


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("empty.txt", b"", (), "empty.txt: expected at least one text that is not blank, got none"),
        ("blank.txt", b" \n\n\t\n", (), "blank.txt: expected at least one text"),
        ("model.bin", b"\x7fELF\x00\x01\x02", (), "line 1 holds a NUL byte"),
        ("photo.txt", b"good\n\x89PNG\xff\xfe", (), "photo.txt: line 2 is not UTF-8"),
        ("wide.txt", "wide".encode("utf-16"), (), "line 1 holds a NUL byte"),
        ("pairs.csv", b"question,answer\nq,a\n", ("--text-column", "text"),
         "its columns are 'question', 'answer'"),
        ("data.jsonl", b'{"question": "q"}\n', ("--text-column", "body"), "'question'"),
        ("data.jsonl", b"{not json\n", (), "data.jsonl: line 1"),
    ],
)  # fmt: skip
def test_text_that_is_none_ends_the_build_before_it_begins(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr(
        sys.modules["fuselage.compiler.cli.build"],
        "run_build",
        lambda *_, **__: pytest.fail("began"),
    )
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "bundle"
    arguments = ["build", "minilm", "--precision", "int8", "--out", str(out)]
    assert run([*arguments, "--text", str(tmp_path / name), *options]) == 1
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert "Traceback" not in error
    assert not out.exists()


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_text_from_python_is_refused(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(CalibrationError, match="at least one text that is not blank, got none"):
        fuselage.build("minilm", out=tmp_path / "bundle", precision="int8", texts=texts)
    assert not (tmp_path / "bundle").exists()


# --- text that can be read, but says little


def test_one_text_gives_ranges_and_a_warning(
    graph: Graph, tokenizer: Path, journal: Journal
) -> None:
    texts = CalibrationSet.from_texts(["cat sees dog"], source="one.txt")
    quantized = quantize(graph, tokenizer, SPEC, texts, journal)
    assert quantized.table.texts == 1
    assert quantized.quality is None
    assert any("calibrated on 1 distinct text of one.txt, which may" in n for n in journal.notes)


def test_one_text_cannot_be_held_to_a_budget(
    graph: Graph, tokenizer: Path, journal: Journal
) -> None:
    from fuselage.calibration.damage.budget import Budget

    texts = CalibrationSet.from_texts(["cat sees dog"])
    with pytest.raises(CalibrationError, match="expected at least two texts"):
        quantize(graph, tokenizer, SPEC, texts, journal, budget=Budget(min_sqnr_db=9))


def test_text_the_tokenizer_does_not_know_is_named(
    graph: Graph, tokenizer: Path, journal: Journal
) -> None:
    texts = CalibrationSet.from_texts(["猫は犬を見る", "кот видит собаку", "cat sees dog"])
    (_, note) = survey(texts, TextEncoder(tokenizer, SPEC)).notes()  # they are short, too
    assert "the tokenizer does not know 57% of the tokens of texts" in note
    assert "give text in a language of the model" in note
    assert quantize(graph, tokenizer, SPEC, texts, journal).table.texts == 2


def test_token_ids_of_another_model_are_refused(
    graph: Graph, tokenizer: Path, journal: Journal
) -> None:
    texts = CalibrationSet.from_texts([[1, 2, 3], [4, 30000]])
    with pytest.raises(CalibrationError, match=r"ids below 11, .* got 30000"):
        quantize(graph, tokenizer, SPEC, texts, journal)


# --- models whose activations no range fits


def test_constant_activations_are_named_and_harmless(
    graph: Graph, tokenizer: Path, journal: Journal
) -> None:
    graph = weighted(graph, w1=np.zeros((32, 48)))
    texts = CalibrationSet.from_texts(TEXTS, source="corpus.txt")
    quantized = quantize(graph, tokenizer, SPEC, texts, journal)
    (note,) = (note for note in journal.notes if note.startswith("constant activations"))
    assert "tensor 'active' held nothing but 0 on corpus.txt" in note
    assert quantized.quality is not None
    assert quantized.quality.sqnr_db > 100


def test_activations_that_vary_are_not_called_constant(
    graph: Graph, tokenizer: Path, journal: Journal
) -> None:
    texts = CalibrationSet.from_texts(TEXTS)
    quantize(graph, tokenizer, SPEC, texts, journal)
    assert not [note for note in journal.notes if "constant" in note]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_activations_that_are_not_finite_name_the_tensor(
    graph: Graph, tokenizer: Path, journal: Journal, bad: float
) -> None:
    graph = weighted(graph, w1=np.full((32, 48), bad))
    texts = CalibrationSet.from_texts(TEXTS)
    with pytest.raises(
        CalibrationError, match=r"tensor 'active': \d+ of \d+ activations are NaN or infinite"
    ):
        quantize(graph, tokenizer, SPEC, texts, journal)
