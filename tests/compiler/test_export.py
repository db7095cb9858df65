from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from fuselage.compiler.exporting.export import Exported, export
from fuselage.compiler.models.source import resolve_model
from fuselage.errors import ExportError, FeedError, GraphError
from fuselage.graph.tensors import Array

from .conftest import FAMILIES, LAYERS

SHAPES = ((1, 1), (1, 7), (5, 13), (3, 40), (2, 1))
Feeds = dict[str, Array]


def random_feeds(exported: Exported, batch: int, sequence: int, rng: np.random.Generator) -> Feeds:
    """Ids, types and right padding of every length; rows after the first are padded."""
    ids = rng.integers(5, 97, (batch, sequence))
    mask = np.ones_like(ids)
    for row in range(1, batch):
        mask[row, rng.integers(1, sequence + 1) :] = 0
    ids[mask == 0] = exported.task_spec.pad_token_id
    types = np.where(mask == 1, rng.integers(0, 2, ids.shape), 0)
    feeds: Feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: feeds[name] for name in exported.task_spec.inputs}


def session_of(exported: Exported, folder: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    path, *_ = exported.graph.save(folder / "model.onnx")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def assert_equal_to_torch(exported: Exported, folder: Path, *, atol: float = 1e-5) -> None:
    session = session_of(exported, folder)
    rng = np.random.default_rng(0)
    feeds = [random_feeds(exported, batch, sequence, rng) for batch, sequence in SHAPES]
    hidden = random_feeds(exported, 3, 9, rng)
    hidden["attention_mask"][1] = 0
    for feed in (*feeds, hidden):
        expected = exported.reference.run(feed)
        actual = dict(zip(expected, session.run(list(expected), feed), strict=True))
        for name in exported.task_spec.outputs:
            np.testing.assert_allclose(actual[name], expected[name], atol=atol, rtol=1e-5)


def dims_of(exported: Exported) -> set[str]:
    outputs = (value for node in exported.graph.model.graph for value in node.outputs)
    dims = (dim for value in outputs for dim in (value.shape or ()))
    return {str(dim) for dim in dims if not isinstance(dim, int)}


@pytest.fixture
def quiet_root() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.root.addHandler(handler)
    yield lines
    logging.root.removeHandler(handler)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_like_eager_torch(
    family: str, architecture: Callable[..., Path], tmp_path: Path
) -> None:
    exported = export(resolve_model(str(architecture(family)), weights="random"))
    spec = exported.task_spec
    assert spec.task == "feature-extraction"
    assert ("token_type_ids" in spec.inputs) is (family in ("bert", "electra", "albert"))
    assert spec.max_tokens == (62 if family in ("roberta", "xlm-roberta", "mpnet") else 64)
    assert exported.graph.opset == 23
    assert dims_of(exported) <= {"batch", "sequence", "None"}
    assert [spec.dims for spec in exported.graph.inputs] == [("batch", "sequence")] * len(
        exported.task_spec.inputs
    )
    assert exported.graph.outputs[0].dims == ("batch", "sequence", 24)
    layers = {"mpnet": 0, "deberta-v2": 0, "modernbert": 2}.get(family, LAYERS)
    assert_sdpa_or_refused(exported, layers)
    assert_equal_to_torch(exported, tmp_path)


def assert_sdpa_or_refused(exported: Exported, layers: int) -> None:
    (record,) = exported.graph.history
    assert record.stage == "export"
    assert record.nodes_after == len(exported.graph.model.graph)
    assert exported.graph.op_counts.get("Attention", 0) == layers
    assert [refusal.rule for refusal in record.refusals] == ([] if layers else ["export-sdpa"])
    for refusal in record.refusals:
        assert refusal.reason.endswith("traced with eager attention instead")


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_eager_is_traced_when_asked_for(
    family: str, architecture: Callable[..., Path], tmp_path: Path
) -> None:
    exported = export(resolve_model(str(architecture(family)), weights="random"), attn="eager")
    assert "Attention" not in exported.graph.op_counts
    assert exported.graph.history[0].refusals == ()
    assert_equal_to_torch(exported, tmp_path)


TASK_CLASSES = {
    "sequence-classification": ("BertForSequenceClassification", {"logits": ("batch", 3)}),
    "token-classification": ("BertForTokenClassification", {"logits": ("batch", "sequence", 3)}),
    "question-answering": (
        "BertForQuestionAnswering",
        {"start_logits": ("batch", "sequence"), "end_logits": ("batch", "sequence")},
    ),
    "fill-mask": ("BertForMaskedLM", {"logits": ("batch", "sequence", 97)}),
}


@pytest.mark.parametrize("task", TASK_CLASSES)
def test_auto_picks_the_task_of_the_architecture(
    task: str, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    class_name, outputs = TASK_CLASSES[task]
    labels = {0: "low", 1: "middle", 2: "high"}
    folder = checkpoint(class_name, **({} if "logits" not in outputs else {"id2label": labels}))
    exported = export(resolve_model(str(folder)))
    assert exported.task_spec.task == task
    assert {spec.name: spec.dims for spec in exported.graph.outputs} == outputs
    if task.endswith("classification"):
        assert exported.task_spec.labels == ("low", "middle", "high")
    if task == "fill-mask":
        assert exported.task_spec.mask_token_id == 4
    assert_equal_to_torch(exported, tmp_path)


@pytest.mark.parametrize(
    ("pooling", "kinds", "mode"),
    [
        ({"pooling_mode_mean_tokens": True}, ("Transformer", "Pooling", "Normalize"), "mean"),
        ({"pooling_mode": "cls"}, ("Transformer", "Pooling", "Normalize"), "cls"),
        ({"pooling_mode": "mean"}, ("Transformer", "Pooling"), "mean"),
    ],
)
def test_sentence_files_are_compiled_into_the_graph(
    pooling: dict[str, Any],
    kinds: tuple[str, ...],
    mode: str,
    checkpoint: Callable[..., Path],
    sentence_files: Callable[..., None],
    tmp_path: Path,
) -> None:
    folder = checkpoint()
    sentence_files(folder, *kinds, pooling=pooling)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 33}')
    exported = export(resolve_model(str(folder)))
    spec = exported.task_spec
    assert (spec.task, spec.pooling, spec.dimension, spec.max_tokens) == ("embedding", mode, 24, 33)
    assert spec.normalized is ("Normalize" in kinds)
    assert exported.graph.outputs[0].dims == ("batch", 24)
    feeds = random_feeds(exported, 4, 11, np.random.default_rng(1))
    vectors = exported.reference.run(feeds)["sentence_embedding"]
    expected = by_hand(folder, feeds, mode, normalize="Normalize" in kinds)
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=1e-5)
    assert_equal_to_torch(exported, tmp_path)


def by_hand(folder: Path, feeds: Feeds, mode: str, *, normalize: bool) -> Array:
    from transformers import BertModel

    from fuselage.compiler.exporting.quiet import quiet_transformers

    with quiet_transformers(), torch.no_grad():
        model = BertModel.from_pretrained(folder).eval()
        states = model(**{name: torch.tensor(feed) for name, feed in feeds.items()})[0].numpy()
    kept = feeds["attention_mask"][..., None]
    vectors = states[:, 0] if mode == "cls" else (states * kept).sum(1) / kept.sum(1)
    if normalize:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors)


@pytest.mark.parametrize(
    ("kinds", "pooling", "match"),
    [
        (("Transformer", "Pooling", "Dense"), None, r"Dense is not supported"),
        (("Transformer", "Pooling", "Normalize"), {"pooling_mode": "lasttoken"}, "'lasttoken'"),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
            r"'max \+ mean'",
        ),
    ],
)
def test_foreign_sentence_modules_are_refused(
    kinds: tuple[str, ...],
    pooling: dict[str, Any] | None,
    match: str,
    checkpoint: Callable[..., Path],
    sentence_files: Callable[..., None],
) -> None:
    folder = checkpoint()
    sentence_files(folder, *kinds, pooling=pooling)
    with pytest.raises(ExportError, match=match):
        export(resolve_model(str(folder)))


@pytest.mark.parametrize(
    ("task", "match"),
    [
        ("fill-mask", r"\(BertModel\) does not fit the task 'fill-mask': it lacks \d+ weights"),
        ("question-answering", r"lacks \d+ weights, among them 'qa_outputs.bias'"),
        ("summarization", r"expected auto or one of embedding, .*got 'summarization'"),
    ],
)
def test_a_task_without_trained_weights_is_refused(
    task: str, match: str, checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(ExportError, match=match):
        export(resolve_model(str(checkpoint())), task)


def test_an_unknown_architecture_lists_the_tasks(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("BertForNextSentencePrediction")
    with pytest.raises(ExportError, match=r"BertForNextSentencePrediction.*give one with --task"):
        export(resolve_model(str(folder)))


def test_an_encoder_decoder_is_refused(architecture: Callable[..., Path]) -> None:
    folder = architecture("bert", model_type="bart", architectures=["BartModel"])
    with pytest.raises(ExportError, match="bart is an encoder-decoder"):
        export(resolve_model(str(folder), weights="random"))


def test_code_of_a_checkpoint_is_never_run(architecture: Callable[..., Path]) -> None:
    auto_map = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    folder = architecture("bert", model_type="strange", auto_map=auto_map)
    (folder / "code.py").write_text("raise SystemExit('code of the checkpoint was run')")
    with pytest.raises(ExportError, match="never run"):
        export(resolve_model(str(folder), weights="random"))


def test_nan_weights_are_named(checkpoint: Callable[..., Path]) -> None:
    from safetensors.numpy import load_file, save_file

    file = checkpoint() / "model.safetensors"
    tensors = load_file(file)
    tensors["encoder.layer.0.output.dense.weight"][3, 5] = np.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        GraphError, match=r"'encoder.layer.0.output.dense.weight.T' \[40, 24\] holds 1 NaN"
    ):
        export(resolve_model(str(file.parent)))


def test_graph_and_reference_share_one_copy_of_the_weights(checkpoint: Callable[..., Path]) -> None:
    exported = export(resolve_model(str(checkpoint("BertForMaskedLM"))))
    owned = {value.data_ptr() for value in exported.reference.module.parameters()}
    initializers = exported.graph.model.graph.initializers
    large = {name: value for name, value in initializers.items() if value.const_value.size > 300}
    assert len(large) == 4 + 6 * LAYERS
    for value in large.values():
        assert value.const_value.numpy().__array_interface__["data"][0] in owned
    assert (
        large["bert.encoder.layer.0.output.dense.weight.T"].const_value.numpy().flags.c_contiguous
    )
    tied = large["bert.embeddings.word_embeddings.weight.T"].const_value.numpy()
    assert np.shares_memory(
        tied, large["bert.embeddings.word_embeddings.weight"].const_value.numpy()
    )


def test_nodes_bear_the_names_of_their_modules(checkpoint: Callable[..., Path]) -> None:
    graph = export(resolve_model(str(checkpoint()))).graph.model.graph
    names = [node.name for node in graph]
    assert len(set(names)) == len(names)
    assert "encoder.layer.0.intermediate.dense/MatMul" in names
    assert "encoder.layer.0.attention.self/Attention" in names
    assert not any(node.metadata_props or node.doc_string for node in graph)
    values = [value.name for node in graph for value in node.outputs] + list(graph.initializers)
    assert len(set(values)) == len(values)


def test_two_exports_are_equal(checkpoint: Callable[..., Path]) -> None:
    source = resolve_model(str(checkpoint()))
    first, second = export(source), export(source)
    assert first.graph.digest() == second.graph.digest()
    assert first.tokenizer == second.tokenizer


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone(
    architecture: Callable[..., Path],
) -> None:
    folder = str(architecture("bert"))
    state = torch.get_rng_state()
    graphs = [export(resolve_model(folder, weights="random")).graph for _ in range(2)]
    assert graphs[0].digest() == graphs[1].digest()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_tokenizer_neither_cuts_nor_pads(checkpoint: Callable[..., Path]) -> None:
    from tokenizers import Tokenizer

    folder = checkpoint()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    plain = Tokenizer.from_str(export(resolve_model(str(folder))).tokenizer.decode())
    assert plain.truncation is None
    assert plain.padding is None
    assert len(plain.encode("a b c d e f g h i j").ids) == 12


def test_the_export_says_nothing(
    checkpoint: Callable[..., Path], quiet_root: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    source = resolve_model(str(checkpoint("BertForSequenceClassification")))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export(source)
    assert caught == []
    assert quiet_root == []
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_the_first_export_of_a_process_says_nothing(checkpoint: Callable[..., Path]) -> None:
    code = (
        "import sys; from fuselage.compiler.models.source import resolve_model;"
        "from fuselage.compiler.exporting.export import export; export(resolve_model(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint())], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_the_reference_refuses_other_feeds(architecture: Callable[..., Path]) -> None:
    reference = export(resolve_model(str(architecture("distilbert")), weights="random")).reference
    with pytest.raises(FeedError, match=r"expected exactly the inputs \['attention_mask'"):
        reference.run({"input_ids": np.ones((1, 3), np.int64)})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hidden_size": 48}, r"is \[24\] in the file and \[48\] by config.json"),
        ({"vocab_size": 12}, r"word_embeddings.weight' is \[97, 24\] in the file and \[12, 24\]"),
        ({"num_hidden_layers": 1}, r"counts 1 layers, which leaves 16 weights such as 'encoder"),
        ({"num_hidden_layers": 0}, "counts 0 layers, which leaves no layer|leaves 32 weights"),
    ],
)
@pytest.mark.parametrize("class_name", ["BertModel", "BertForSequenceClassification"])
def test_a_config_of_another_checkpoint_is_refused(
    class_name: str, changes: dict[str, Any], match: str, checkpoint: Callable[..., Path]
) -> None:
    folder = checkpoint(class_name, num_hidden_layers=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    match = match if class_name == "BertModel" else match.replace("'encoder", "'bert.encoder")
    with pytest.raises(ExportError, match=match):
        export(resolve_model(str(folder)), "feature-extraction")


def test_a_head_trained_for_another_task_is_refused(checkpoint: Callable[..., Path]) -> None:
    source = resolve_model(str(checkpoint("BertForSequenceClassification")))
    with pytest.raises(
        ExportError, match=r"was trained for sequence-classification, so its head does not fit"
    ):
        export(source, "token-classification")
    assert export(source, "feature-extraction").task_spec.task == "feature-extraction"


def test_positions_of_mpnet_do_not_follow_its_padding_token(
    architecture: Callable[..., Path],
) -> None:
    folder = architecture("mpnet", pad_token_id=0, bos_token_id=1)
    exported = export(resolve_model(str(folder), weights="random"))
    longest = exported.task_spec.max_tokens
    assert longest == 62
    feeds = {name: np.full((1, longest), 5) for name in exported.task_spec.inputs}
    feeds["attention_mask"][:] = 1
    assert exported.reference.run(feeds)["last_hidden_state"].shape == (1, longest, 24)
    longer = {name: np.ones((1, longest + 1), np.int64) * 5 for name in feeds}
    with pytest.raises(ExportError, match=r"model itself fails .*\[1, 63\].*IndexError"):
        exported.reference.run(longer)
