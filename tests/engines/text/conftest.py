"""Tiny models of several families, their tokenizers, and an engine that runs them with torch."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from fuselage.engines.base import Engine
from fuselage.engines.text.pipeline import text_pipeline
from fuselage.engines.text.runtime import TextRuntime
from fuselage.engines.text.task import TaskSpec
from fuselage.graph.tensors import Array, Feeds, TensorSpec, check_feeds

# two threads over matrices of 32 columns only wait for each other
torch.set_num_threads(1)

MAX_TOKENS = 40

CORPUS = (
    "the quick brown fox jumps over the lazy dog near Berlin and Paris",
    "Alice Smith works for Acme Corp in New York since 1999, doesn't she?",
    "a caf\u00e9 in Zürich serves na\u00efve r\u00e9sum\u00e9s to Björn & François",
    "你好 世界 今天 天气 很 好 שלום עולם مرحبا بالعالم हिन्दी",
    "what is the capital of France? the capital of France is Paris.",
)

TEXTS = (
    "the quick brown fox",
    "Alice Smith works for Acme Corp in New York.",
    "  leading blanks, tabs\tand\nnewlines  ",
    "emoji 😀👩‍👩‍👧 and text",
    "combining e\u0301 a\u0308 marks in Zu\u0308rich",
    "你好世界，今天天气很好",
    "שלום עולם مرحبا بالعالم",
    "unknown ☃ snowman ☃☃",
    "x",
    "doesn't it , really ?",
)
LONG_TEXT = "the quick brown fox jumps over the lazy dog near Berlin. " * 30


class TorchEngine(Engine):
    """Runs a torch module as an engine and counts its calls."""

    target = "ort-cpu"

    def __init__(self, module: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        self.module = module.eval()
        self.inputs = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in inputs)
        self.outputs = tuple(TensorSpec(name, "float32", ("batch",)) for name in outputs)
        self.shapes: list[tuple[int, ...]] = []
        self.closed = 0

    def run(self, feeds: Feeds) -> dict[str, Array]:
        check_feeds(self.inputs, feeds)
        self.shapes.append(feeds["input_ids"].shape)
        with torch.inference_mode():
            answers = self.module(**{name: torch.tensor(feeds[name]) for name in feeds})
        return {spec.name: answers[spec.name].numpy() for spec in self.outputs}

    def close(self) -> None:
        self.closed += 1


class FixedEngine(Engine):
    """Answers with what a function makes of the feeds."""

    target = "ort-cpu"

    def __init__(
        self,
        answer: Callable[[Feeds], Mapping[str, Array]],
        outputs: tuple[str, ...],
        dims: tuple[int | str, int | str] = ("batch", "sequence"),
        dtype: str = "int64",
    ) -> None:
        self.answer = answer
        self.inputs = (TensorSpec("input_ids", dtype, dims),)
        self.outputs = tuple(TensorSpec(name, "float32", ("batch",)) for name in outputs)
        self.feeds: list[Feeds] = []
        self.closed = 0

    def run(self, feeds: Feeds) -> dict[str, Array]:
        check_feeds(self.inputs, feeds)
        self.feeds.append(feeds)
        return dict(self.answer(feeds))

    def close(self) -> None:
        self.closed += 1


@dataclass(frozen=True)
class Family:
    """A tokenizer as transformers has it and as a file, with the config of a tiny model."""

    name: str
    tokenizer: Any
    path: Path
    config: Any
    spec: TaskSpec

    def model(self, kind: str, **settings: Any) -> Any:
        """A random model, for example of kind ForMaskedLM."""
        torch.manual_seed(7)
        config = type(self.config)(**(self.config.to_dict() | settings))
        name = "AutoModel" + kind
        return getattr(transformers, name).from_config(config).eval()

    def runtime(self, model: Any, **changes: Any) -> TextRuntime:
        """Our runtime over that model."""
        spec = replace(self.spec, **changes)
        engine = TorchEngine(model, spec.inputs, spec.outputs)
        return text_pipeline(engine, self.path, spec)


def word_piece() -> Tokenizer:
    """Short words whole, longer ones in two pieces, single characters for the rest."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = [
        word
        for line in CORPUS
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line))
    ]
    pieces = {word[:4] for word in words} | {f"##{word[4:]}" for word in words if word[4:]}
    characters = {character for word in words for character in word}
    pieces |= characters | {f"##{character}" for character in characters}
    vocabulary = {token: index for index, token in enumerate([*special, *sorted(pieces)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def byte_level() -> Tokenizer:
    """Bytes, and merges that build the first letters of the corpus' words."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = {word for line in CORPUS for word, _ in splitter.pre_tokenize_str(line)}
    words = sorted(found, reverse=True)  # those with a leading blank first
    merges = list(
        dict.fromkeys((word[:size], word[size]) for word in words for size in range(1, len(word)))
    )
    merges = [merge for merge in merges if len(merge[0]) < 4]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = [*special, *sorted(splitter.alphabet()), *("".join(merge) for merge in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}


def family(name: str, folder: Path) -> Family:
    is_bpe = name == "roberta"
    backend = byte_level() if is_bpe else word_piece()
    names = (
        {"cls": "<s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
        if is_bpe
        else {"cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "pad": "[PAD]", "mask": "[MASK]"}
    )
    inputs = ("input_ids", "attention_mask", "token_type_ids")[: 3 if name == "bert" else 2]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=MAX_TOKENS,
        model_input_names=list(inputs),
        **{f"{role}_token": token for role, token in names.items()},
    )
    path = folder / "tokenizer.json"
    # what a training run leaves behind, and what must not matter
    leftover = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    leftover.enable_truncation(7)
    leftover.enable_padding(length=128, pad_id=tokenizer.pad_token_id)
    leftover.save(str(path))
    size = len(tokenizer)
    if name == "bert":
        config: Any = transformers.BertConfig(vocab_size=size, **SMALL)
    elif name == "distilbert":
        config = transformers.DistilBertConfig(
            vocab_size=size, dim=32, n_layers=2, n_heads=2, hidden_dim=48, initializer_range=0.3
        )
    else:
        config = transformers.RobertaConfig(vocab_size=size, pad_token_id=1, **SMALL)
    spec = TaskSpec(
        task="feature-extraction",
        inputs=inputs,
        outputs=("last_hidden_state",),
        max_tokens=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        unk_token_id=tokenizer.unk_token_id,
        mask_token=tokenizer.mask_token,
        mask_token_id=tokenizer.mask_token_id,
    )
    return Family(name, tokenizer, path, config, spec)


@pytest.fixture(scope="session", params=["bert", "distilbert", "roberta"])
def any_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return family("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return family("roberta", tmp_path_factory.mktemp("roberta"))


@pytest.fixture(scope="session")
def fixed_engine() -> type[FixedEngine]:
    return FixedEngine


@pytest.fixture(scope="session")
def torch_engine() -> type[TorchEngine]:
    return TorchEngine


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Unicode, blanks, one character, sentences."""
    return list(TEXTS)


@pytest.fixture(scope="session")
def long_text() -> str:
    """Many times MAX_TOKENS."""
    return LONG_TEXT
