"""Tiny bundles, built once for all tests here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fuselage

SIZES = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
LABELS = {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build a random BERT of an architecture, as fp32 on ort-cpu."""
    built: dict[str, Path] = {}

    def build(architecture: str, **config: Any) -> Path:
        if architecture not in built:
            folder = tmp_path_factory.mktemp(architecture)
            written = {"model_type": "bert", "architectures": [architecture]} | SIZES | config
            (folder / "config.json").write_text(json.dumps(written))
            built[architecture] = folder / "bundle"
            fuselage.build(
                str(folder),
                out=built[architecture],
                precision="fp32",
                targets="ort-cpu",
                weights="random",
            )
        return built[architecture]

    return build


@pytest.fixture(scope="session")
def classifier(bundle: Callable[..., Path]) -> Path:
    return bundle("BertForSequenceClassification", **LABELS)
