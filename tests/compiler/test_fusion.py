from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.fusion import FusionCount, count_fusions
from fuselage.graph.history import Refusal, StageRecord
from fuselage.graph.model import Graph
from fuselage.passes.masks.meaning import Mask
from fuselage.passes.masks.write import Lengths, write_mask

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
net (float[b, s, 16] x, int64[b, s] padding, float[b, 1, s, s] bias) => (float[b, s, 16] y)
{
    a1 = Attention<q_num_heads = 2, kv_num_heads = 2>(x, x, x, bias)
    a2 = Attention<q_num_heads = 2, kv_num_heads = 2>(a1, a1, a1, bias)
    a3 = Attention<q_num_heads = 2, kv_num_heads = 2>(a2, a2, a2)
    n = LayerNormalization(a3, gain)
    y = Gelu(n)
}"""


def record(stage: str, *refusals: Refusal, rolled_back: str | None = None) -> StageRecord:
    return StageRecord(
        stage=stage,
        seconds=0.0,
        nodes_before=1,
        nodes_after=1,
        refusals=refusals,
        rolled_back=rolled_back,
    )


MISS = Refusal("fuse-attention", "n_1", "softmax is over axis 1, not the last of 4")
OTHER = Refusal("fuse-attention", "n_2", "the scale is 0, expected a positive one")
BIAS = Refusal("simplify-attention-mask", "n_a2", "the mask depends on bias")


@pytest.fixture
def model() -> ir.Model:
    model = ir.from_onnx_text(TEXT, [ir.tensor(np.ones(16, np.float32), name="gain")])
    tape = ir.tape.Tape()
    padding = model.graph.inputs[1]
    size = ((padding, 1),)
    mask = write_mask(
        model.graph, tape, Mask(padding=padding), Lengths(size, size), ir.DataType.FLOAT
    )
    model.graph.insert_before(model.graph[0], tape.nodes)
    first = next(node for node in model.graph if node.op_type == "Attention")
    first.replace_input_with(3, mask)
    return model


def test_what_is_present_and_what_was_refused_is_found(model: ir.Model) -> None:
    history = (record("fuse-attention", MISS, OTHER), record("simplify-attention-mask", BIAS))
    assert count_fusions(Graph(model, history)) == {
        "attention": FusionCount(5, 3, (MISS, OTHER)),
        "attention_mask": FusionCount(2, 1, (BIAS,)),
        "layer_norm": FusionCount(1, 1),
        "gelu": FusionCount(1, 1),
    }


def test_masks_are_counted_by_what_they_are_not_by_what_ran(model: ir.Model) -> None:
    assert count_fusions(Graph(model))["attention_mask"] == FusionCount(2, 1)


def test_the_last_run_of_a_pass_counts(model: ir.Model) -> None:
    history = (record("fuse-attention", MISS, OTHER), record("fuse-attention", OTHER))
    assert count_fusions(Graph(model, history))["attention"] == FusionCount(4, 3, (OTHER,))


def test_options_in_the_stage_name_do_not_matter(model: ir.Model) -> None:
    history = (record("fuse-gelu(strict=True)", Refusal("ErfGelu", "n", "half is 1, not 0.5")),)
    assert count_fusions(Graph(model, history))["gelu"].found == 2


def test_a_pass_that_was_rolled_back_is_not_silent(model: ir.Model) -> None:
    history = (record("fuse-attention", MISS, rolled_back="relative error 1e-2 exceeds 1e-05"),)
    count = count_fusions(Graph(model, history))["attention"]
    reason = "rolled back: relative error 1e-2 exceeds 1e-05"
    assert count == FusionCount(4, 3, (Refusal("fuse-attention", "", reason),))
