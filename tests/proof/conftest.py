"""One tiny model with random weights, its bundle, and a damaged copy of its graph."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import fuselage
from fuselage.engines.bundle import Bundle

LABELS = 7
LONGEST = 48


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors on many threads only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_trace_records() -> Iterator[None]:
    """torch.export writes thousands of trace records, which pytest would format and keep."""
    logger = logging.getLogger("torch.__trace")
    propagates, logger.propagate = logger.propagate, False
    yield
    logger.propagate = propagates


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer that labels tokens; ``torch:random:FOLDER`` opens it.

    Weights of 0.2 instead of 0.02: with small ones attention is uniform and errors do not show.
    """
    folder = tmp_path_factory.mktemp("model") / "tiny"
    folder.mkdir()
    config = {
        "model_type": "bert",
        "architectures": ["BertForTokenClassification"],
        "vocab_size": 97,
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": LONGEST,
        "initializer_range": 0.2,
        "id2label": {str(label): f"label {label}" for label in range(LABELS)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def bundle(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The model's bundle: ort-cpu in fp32."""
    return fuselage.build(
        str(model_folder),
        out=tmp_path_factory.mktemp("bundle") / "tiny",
        precision="fp32",
        targets=("ort-cpu",),
        weights="random",
    )


@pytest.fixture(scope="session")
def damaged_graph(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The canonical graph with one entry of the key's weight moved by 1e-2."""
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    model = onnx.load(bundle.root / "graph/model.onnx")
    weight = next(w for w in model.graph.initializer if "self.key.weight" in w.name)
    array = onnx.numpy_helper.to_array(weight).copy()
    array[3, 5] += np.float32(1e-2)
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, path)
    return path
