"""Random models of several families with tokenizers that were trained on the spot, as folders."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

MAX_TOKENS = 64
FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta")
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")

_SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}
# fmt: off
_WORDS = (
    "the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "near", "Berlin",
    "and", "Paris", "while", "Alice", "Smith", "of", "Acme", "Corp", "reads", "what",
    "François", "wrote", "in", "Zürich", "about", "naïve", "cafés", "since", "1999", ",",
    "doesn't", "she", "?",
)
# fmt: on
_ODD = (
    "你好世界，今天天气很好",
    "שלום עולם",
    "مرحبا بالعالم",
    "हिन्दी में",
    "Ελληνικά",
    "ﬁne ﬂow Ⅳ ½",
    "e\u0301tude Zu\u0308rich a\u0308\u0301",
    "😀👩‍👩‍👧🇫🇷",
    "☃☃ ∑∫",
    "tab\there",
    "line\nbreak",
    "no\u00a0break\u3000wide",
    "soft\u00adhyphen",
    "zero\u200bwidth",
    "İstanbul ẞ ŉ",
    "a" * 150,
    "Donaudampfschifffahrtsgesellschaft" * 3,
    "...!?--",
    "<b>x</b> & y",
    "don't they're I'd",
)


def inputs(count: int, seed: int) -> list[str]:
    """Texts that all differ: plain, odd in every way listed above, short, and beyond the limit."""
    rng = random.Random(seed)
    texts = []
    for number in range(count):
        size = rng.choice((1, 3, 6, 12, 20, 90 if number % 10 == 0 else 9))
        words = rng.choices(_WORDS, k=size)
        for _ in range(number % 4):
            words.insert(rng.randrange(len(words) + 1), rng.choice(_ODD))
        gap = "  " if number % 7 == 3 else " "
        before = ("", " ", "   ", "\n")[number % 9 % 4]
        texts.append(f"{before}{gap.join(words)} {number}{' ' * (number % 3)}")
    return texts


def save_model(folder: Path, family: str, kind: str, **settings: Any) -> Path:
    """A model of a kind such as ForMaskedLM, its tokenizer beside it.

    Args:
        folder: of the model, made here.
        family: one of `FAMILIES`.
        kind: what follows AutoModel in the name of its class.
        settings: of its configuration.
    """
    tokenizer = _tokenizer(family)
    torch.manual_seed(5)
    size = dict(_SIZE)
    if family == "distilbert":
        size = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "initializer_range": 0.3}
    positions = MAX_TOKENS + (2 if "roberta" in family else 0)
    config = transformers.AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        **({"type_vocab_size": 1} if "roberta" in family else {}),
        **size,
        **settings,
    )
    getattr(transformers, f"AutoModel{kind}").from_config(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(family: str) -> Any:
    is_bert = "roberta" not in family
    backend = {"roberta": _byte_level, "xlm-roberta": _unigram}.get(family, _word_piece)()
    names = (
        {"cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "pad": "[PAD]", "mask": "[MASK]"}
        if is_bert
        else {"cls": "<s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    )
    columns = ["input_ids", "attention_mask", "token_type_ids"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=MAX_TOKENS,
        model_input_names=columns[: 3 if family == "bert" else 2],
        **{f"{role}_token": name for role, name in names.items()},
    )


_ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def _corpus() -> list[str]:
    return inputs(300, seed=99)


def _word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=260, special_tokens=special, limit_alphabet=90, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=_ROBERTA_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=260, special_tokens=_ROBERTA_SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer
