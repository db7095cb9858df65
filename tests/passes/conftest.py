"""Small graphs in ONNX text, running them as they are written, and exports of a tiny BERT."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from fuselage.graph.model import Graph
from fuselage.passes.base import Pass, PassResult
from fuselage.passes.validate import first_defect

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Parse = Callable[..., ir.Model]
Run = Callable[[ir.Model, Feeds], dict[str, Array]]
Apply = Callable[[Pass, ir.Model], tuple[ir.Model, PassResult]]

HEADS, SIZE = 2, 16
HIDDEN = HEADS * SIZE


def parse_model(text: str, *, opset: int = 23, **constants: Array) -> ir.Model:
    """A model from ``name (inputs) => (outputs) { body }``; constants it reads become initializers.

    Every node is named after its first output, so that refusals can be asserted by node.
    """
    model = ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n{text}'
    )
    values = ir.convenience.create_value_mapping(model.graph)
    for name in constants.keys() & values.keys():
        value, tensor = values[name], ir.tensor(np.asarray(constants[name]), name=name)
        value.const_value, value.dtype, value.shape = tensor, tensor.dtype, ir.Shape(tensor.shape)
        model.graph.register_initializer(value)
    for node in model.graph:
        node.name = f"n_{node.outputs[0].name}"
    if not any(node.domain for node in model.graph):
        del model.opset_imports["com.microsoft"]
    return model


def run_model(model: ir.Model, feeds: Feeds) -> dict[str, Array]:
    """Run with ONNX Runtime, its optimiser off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def apply_pass(step: Pass, model: ir.Model) -> tuple[ir.Model, PassResult]:
    """The rewritten clone and the result; fails when the pass leaves a malformed graph."""
    clone = model.clone()
    outcome = step(clone)
    assert isinstance(outcome, PassResult)
    assert first_defect(clone) is None
    return clone, outcome


@pytest.fixture
def parse() -> Parse:
    return parse_model


@pytest.fixture
def run() -> Run:
    return run_model


@pytest.fixture
def apply() -> Apply:
    return apply_pass


@pytest.fixture
def same_numbers() -> Callable[..., None]:
    """same_numbers(before, after, feeds, atol=, rtol=): every output, dtypes and shapes too."""

    def check(before: ir.Model, after: ir.Model, *feeds: Feeds, atol: float, rtol: float) -> None:
        for one in feeds:
            wanted, got = run_model(before, one), run_model(after, one)
            assert list(wanted) == list(got)
            for name, array in wanted.items():
                assert got[name].dtype == array.dtype
                np.testing.assert_allclose(got[name], array, atol=atol, rtol=rtol, err_msg=name)

    return check


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@dataclass(frozen=True)
class TinyBert:
    """Exports of one randomly initialised BERT, and the model itself in eager attention.

    Attributes:
        graphs: ``sdpa20``, ``eager20`` and ``native23`` as the exporter wrote them.
        reference: feeds -> hidden states of PyTorch, eager attention.
    """

    graphs: Mapping[str, Graph]
    reference: Callable[[Feeds], Array] = field(repr=False)

    def feeds(self, batch: int, sequence: int, *, full_row: bool = False) -> dict[str, Array]:
        """Random ids with right padding of every length; the last row is masked when asked."""
        random = np.random.default_rng(batch * 100 + sequence)
        lengths = sequence - np.arange(batch) % sequence
        if full_row:
            lengths[-1] = 0
        return {
            "input_ids": random.integers(0, 50, (batch, sequence)),
            "attention_mask": (np.arange(sequence) < lengths[:, None]).astype(np.int64),
            "token_type_ids": random.integers(0, 2, (batch, sequence)),
        }


_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@pytest.fixture(scope="session")
def bert() -> TinyBert:
    """Two layers, hidden 32, two heads; exported with sdpa and eager attention, and native."""
    logging.disable(logging.WARNING)  # the exporter misses torchvision, which nobody asked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch and unused axis names
            return _export_bert()
    finally:
        logging.disable(logging.NOTSET)


def _export_bert() -> TinyBert:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=64,
        max_position_embeddings=40,
        initializer_range=0.3,
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():  # biases start at 0, where lost ones go unseen
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, parameter.detach().mean().item(), 0.3)

    def export(attention: str, opset: int) -> Graph:
        model.set_attn_implementation(attention)
        # One tensor each: the exporter takes inputs that share a tensor for one input.
        example = {name: torch.ones(3, 11, dtype=torch.long) for name in _INPUTS}
        example["attention_mask"][1:, 8:] = 0
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
        program = torch.onnx.export(
            model,
            kwargs=example,
            input_names=list(_INPUTS),
            output_names=["hidden"],
            dynamic_shapes=dict.fromkeys(_INPUTS, axes),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
        return Graph(program.model)

    def reference(feeds: Feeds) -> Array:
        with torch.inference_mode():
            outputs = model(**{name: torch.tensor(array) for name, array in feeds.items()})
        hidden: Array = outputs.last_hidden_state.numpy()
        return hidden

    graphs = {
        "sdpa20": export("sdpa", 20),
        "eager20": export("eager", 20),
        "native23": export("sdpa", 23),
    }
    model.set_attn_implementation("eager")
    return TinyBert(graphs, reference)
