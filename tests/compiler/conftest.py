"""Tiny models on disk: every family, any task, seconds to make and to export."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from fuselage.compiler.cli import run
from fuselage.compiler.exporting.quiet import quiet_transformers
from fuselage.compiler.models.random_tokenizer import random_tokenizer_json

Optimize = Callable[..., tuple[int, str]]

LAYERS = 1
SIZES = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
"""Weights of 0.2 instead of 0.02: with small ones attention is uniform and errors do not show."""

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {"architectures": ["BertModel"]},
    "roberta": {"architectures": ["RobertaModel"], "type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta": {"architectures": ["XLMRobertaModel"], "type_vocab_size": 1, "pad_token_id": 1},
    "distilbert": {
        "architectures": ["DistilBertModel"],
        "dim": 24,
        "n_layers": LAYERS,
        "n_heads": 4,
        "hidden_dim": 40,
    },
    "electra": {"architectures": ["ElectraModel"], "embedding_size": 16},
    "albert": {
        "architectures": ["AlbertModel"],
        "embedding_size": 16,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "mpnet": {
        "architectures": ["MPNetModel"],
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    },
    "modernbert": {
        "architectures": ["ModernBertModel"],
        "pad_token_id": 0,
        "bos_token_id": 1,
        "cls_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
        "num_hidden_layers": 2,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
    },
    "deberta-v2": {
        "architectures": ["DebertaV2Model"],
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors on many threads only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_trace_records() -> Iterator[None]:
    """torch.export writes thousands of trace records, which pytest would format and keep."""
    logger = logging.getLogger("torch.__trace")
    propagates, logger.propagate = logger.propagate, False
    yield
    logger.propagate = propagates


@pytest.fixture
def architecture(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder with nothing but config.json."""

    def write(family: str, **changes: Any) -> Path:
        folder = tmp_path / family
        folder.mkdir()
        config = {"model_type": family} | SIZES | FAMILIES[family] | changes
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return write


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder with a tiny BERT as a class of transformers saves it, and a tokenizer."""

    def write(class_name: str = "BertModel", **changes: Any) -> Path:
        import torch
        import transformers

        config = transformers.BertConfig(**SIZES | changes)
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model = getattr(transformers, class_name)(config)
            model.save_pretrained(tmp_path / "model")
        content = random_tokenizer_json({"model_type": "bert", "vocab_size": config.vocab_size})
        (tmp_path / "model" / "tokenizer.json").write_bytes(content)
        names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
        settings = names | {"mask_token": "[MASK]", "tokenizer_class": "PreTrainedTokenizerFast"}
        settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
        return tmp_path / "model"

    return write


@pytest.fixture
def sentence_files() -> Callable[..., None]:
    """Add sentence-transformers files to a folder."""

    def add(folder: Path, *kinds: str, pooling: dict[str, Any] | None = None) -> None:
        modules = [
            {"idx": index, "name": str(index), "path": path, "type": f"a.b.{kind}"}
            for index, (kind, path) in enumerate(
                (kind, "" if kind == "Transformer" else f"{index}_{kind}")
                for index, kind in enumerate(kinds)
            )
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        for module in modules[1:]:
            (folder / module["path"]).mkdir()
        content = pooling or {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(content))

    return add


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; (exit code, stdout, stderr on one line)."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, " ".join(captured.err.split())

    return call


@pytest.fixture
def optimize(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Optimize:
    """Optimise a model or a file: (exit code, stderr). Checks what holds for every outcome."""
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "out").mkdir()

    def call(model: onnx.ModelProto | bytes | Path, *options: str) -> tuple[int, str]:
        source, target = tmp_path / "in.onnx", tmp_path / "out" / "out.onnx"
        if isinstance(model, Path):
            source = model
        else:
            source.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        capfd.readouterr()
        code = run(["optimize", str(source), str(target), "--threads", "1", *options])
        err = capfd.readouterr().err
        if code:
            assert code == 1
            assert err.startswith("error: ")
            assert len(err.splitlines()) == 1, err
            assert list(target.parent.iterdir()) == []
        else:
            onnx.checker.check_model(str(target))
            assert all(file.name.startswith("out.") for file in target.parent.iterdir())
        return code, err

    return call


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "out.onnx"
