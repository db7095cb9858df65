"""Caches become static slots: the same answers for rows of any length, or a reason why not."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.errors import PassError
from fuselage.graph.model import Graph
from fuselage.passes.lowering.convert_precision import ConvertPrecision
from fuselage.passes.normalize.clean_up import CleanUp
from fuselage.passes.normalize.infer_shapes import InferShapes
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.static_cache.lower_cache_dtype import LowerCacheDtype
from fuselage.passes.static_cache.lower_kv_cache import LowerKvCache

LENGTH = 24


@pytest.fixture(scope="module")
def decoders() -> Any:
    """tests/passes/static_cache/decoders.py"""
    spec = importlib.util.spec_from_file_location(
        "decoders_of_tests", Path(__file__).with_name("decoders.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make(decoders: Any, parse: Any, capfd: Any) -> Any:
    def build(*edits: tuple[str, str], **options: Any) -> ir.Model:
        options = {name: getattr(decoders, str(value), value) for name, value in options.items()}
        text, constants = decoders.decoder(**options)
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        model: ir.Model = parse(text, **constants)
        capfd.readouterr()  # the text parser wonders where the constants are
        InferShapes()(model)
        return model

    return build


SPELLINGS = (
    {},
    {"positions": "TABLE"},
    {"positions": "TABLE", "concat": True},
    {"concat": True},
    {"positions": "TABLE", "flat": True},
    {"mask": "CAUSAL"},
    {"mask": "WINDOW"},
    {"mask": "WINDOW", "window": 1, "positions": "TABLE"},
)


@pytest.mark.parametrize("options", SPELLINGS, ids=lambda o: "-".join(map(str, o.values())) or "-")
def test_rows_of_any_length_get_the_same_answers(
    make: Any, apply: Any, run: Any, decoders: Any, options: dict[str, Any]
) -> None:
    model = make(**options)
    after, outcome = apply(LowerKvCache(LENGTH), model)
    assert outcome.rewrites == 2
    heads = 4 if options.get("concat") else 2
    masked = "mask" not in options

    def growing(feeds: Any) -> Any:
        return run(model, feeds if masked else {k: feeds[k] for k in feeds if k[0] != "a"})

    replay = decoders.Replay(
        growing, lambda feeds: run(after, feeds), slots=3, length=LENGTH, heads=heads
    )
    differences = [replay.step(5, 9, 1), replay.step(1, 1, 1), replay.step(1, 0, 7)]
    replay.texts[1] = []  # a slot is given to another text, its cache as it is
    differences += [replay.step(1, 4, 1), replay.step(2, 1, 3), replay.step(1, 1, 1)]
    assert max(differences) < 1e-5


@pytest.mark.parametrize("positions", ["ROTARY", "TABLE"])
def test_the_interface_is_static(make: Any, apply: Any, positions: str) -> None:
    after, _ = apply(LowerKvCache(LENGTH), make(positions=positions))
    graph = Graph(after)
    names = [f"{part}_{layer}" for layer in range(2) for part in ("key", "value")]
    assert [str(spec) for spec in graph.inputs] == [
        "input_ids: int64[batch, sequence]",
        "write_indices: int64[batch]",
        *(f"past_{name}: float32[batch, 2, {LENGTH}, 16]" for name in names),
    ]
    assert [str(spec) for spec in graph.outputs] == [
        "logits: float32[batch, sequence, 50]",
        *(f"present_{name}: float32[batch, 2, {LENGTH}, 16]" for name in names),
    ]
    assert graph.opset == 24


def test_attention_reads_the_written_cache_by_length(make: Any, apply: Any) -> None:
    after, _ = apply(LowerKvCache(LENGTH), make())
    counts = Counter(node.op_type for node in after.graph)
    assert (counts["TensorScatter"], counts["Attention"]) == (4, 2)
    # One table lookup each for cosines and sines, and nothing that computes them or a mask.
    assert counts["Gather"] == 3
    assert not {"Cos", "Sin", "LessOrEqual", "Where", "Expand"} & counts.keys()
    for node in after.graph:
        if node.op_type == "Attention":
            _, keys, values, *absent, lengths = node.inputs
            assert [keys.producer().op_type, values.producer().op_type] == ["TensorScatter"] * 2
            assert absent == [None, None, None]
            assert lengths.producer().op_type == "Add"
            assert node.attributes["is_causal"].as_int() == 1
            assert node.attributes["scale"].as_float() == 0.25


def test_tables_hold_every_position_of_a_slot(make: Any, apply: Any) -> None:
    after, _ = apply(LowerKvCache(LENGTH), make())
    lookups = [node for node in after.graph if (node.inputs[0].name or "").endswith(".table")]
    frequencies = 10.0 ** -np.linspace(0, 2, 8)
    for node, function in zip(lookups, (np.cos, np.sin), strict=True):
        wanted = function(np.arange(LENGTH)[:, None] * frequencies)
        np.testing.assert_allclose(node.inputs[0].const_value.numpy(), wanted, atol=1e-6, rtol=0)


def test_a_second_run_changes_nothing(make: Any, apply: Any) -> None:
    after, _ = apply(LowerKvCache(LENGTH), make())
    again, outcome = apply(LowerKvCache(LENGTH), after)
    assert (outcome.modified, outcome.refusals) == (False, ())
    assert [node.op_type for node in again.graph] == [node.op_type for node in after.graph]


def test_the_given_graph_is_not_touched(make: Any) -> None:
    model = make()
    graph = Graph(model)
    digest, inputs = graph.digest(), graph.inputs
    lowered = PassPipeline((LowerKvCache(LENGTH), ConvertPrecision(), LowerCacheDtype())).run(graph)
    assert lowered.inputs != inputs
    assert (graph.digest(), graph.inputs) == (digest, inputs)


def test_a_graph_without_a_cache_is_left_alone(parse: Any, apply: Any) -> None:
    model = parse("plain (float[b, 4] x) => (float[b, 4] y) { y = Neg(x) }", opset=17)
    _, outcome = apply(LowerKvCache(LENGTH), model)
    assert (outcome.modified, outcome.refusals) == (False, ())


def test_a_cache_that_no_attention_reads_is_told(parse: Any, apply: Any) -> None:
    model = parse(
        """loose (float[b, 2, p, 16] past, float[b, 2, s, 16] k) => (float[b, 2, t, 16] present)
        { present = Concat<axis = 2>(past, k) }"""
    )
    _, outcome = apply(LowerKvCache(LENGTH), model)
    assert not outcome.modified
    assert "no fused attention reads the cache 'past'" in outcome.refusals[0].reason


@pytest.mark.parametrize(
    ("edits", "options", "reason"),
    [
        (
            (),
            {"mask": "CHUNKS"},
            "hides key 1 to the query at position 6; expected .* own and up to 5 keys before it",
        ),
        (
            [("(normed, head)", "(normed, head)\n extra = Neg(past_key_0)"),
             ("] logits,", "] logits, float[batch, 2, past, 16] extra,")],
            {},
            "Neg 'n_extra' reads the cache 'past_key_0' too",
        ),
        ([("(keep, nothing, fill)", "(keep, half, fill)")], {}, "adds a bias to scores"),
        (
            [("present_key_0 = Concat<axis = 2>(past_key_0",
              "near = Neg(past_key_0)\n present_key_0 = Concat<axis = 2>(near")],
            {"concat": True},
            "'n_a_0': its cache 'near' -> 'present_key_0' is not an input and an output; Neg "
            "'n_near' reads 'past_key_0', a cache that no attention has",
        ),
        (
            [("LessOrEqual(keys, row)", "GreaterOrEqual(keys, row)")],
            {},
            "shows key 5 to the query at position 4",
        ),
        (
            [("angles = Cast<to = 1>(position)", "wide = Cast<to = 1>(position)\n"
              "far = Cast<to = 1>(after)\n angles = Div(wide, far)")],
            {},
            "depends on the length of the cache and is no function of the position alone",
        ),
        (
            [("x_0 = Identity(words_x)", "pad = Cast<to = 1>(attention_mask)\n"
              "pads = ReduceSum<keepdims = 0>(pad)\n x_0 = Mul(words_x, pads)")],
            {},
            r"Mul 'n_x_0' reads 'pads', which depends on the length of the cache and has shape \[",
        ),
        (
            [("shown = Cast<to = 9>(attention_mask)", "shown = Cast<to = 9>(attention_mask)\n"
              "odd = Cast<to = 9>(input_ids)\n any = ReduceMax<keepdims = 0>(input_ids)\n"
              "yes = Cast<to = 9>(any)\n shown_ = And(shown, yes)"),
             ("Unsqueeze(shown,", "Unsqueeze(shown_,")],
            {},
            "the mask reads the tokens, through ReduceMax 'n_any'",
        ),
        (
            [("(x_0, wq_0)", "(x_0, wq_0)\n deep = ReduceMax<keepdims = 0>(q_0)\n"
              "deeper = Greater(deep, nothing)\n shut = And(keep, deeper)\n"
              "hidden_ = Where(shut, nothing, fill)\n bias_0 = Expand(hidden_, ones_4)"),
             ("kr_0, vt_0, bias,", "kr_0, vt_0, bias_0,")],
            {},
            "the mask depends on activations, through MatMul 'n_q_0'",
        ),
        ([("= 0.25>(qr_0", "= 0.25, softcap = 9.0>(qr_0")], {}, "it sets softcap=9.0"),
        (
            [("Gather(words, input_ids)", "Gather(words, none)"), ("words_x =",
              "none = Sub(input_ids, input_ids)\n words_x =")],
            {},
            "expected an input of token ids that is looked up in a table",
        ),
    ],
)  # fmt: skip
def test_what_a_static_cache_cannot_do_fails_with_the_reason(
    make: Any, edits: list[tuple[str, str]], options: dict[str, Any], reason: str
) -> None:
    model = make(*edits, **options)
    with pytest.raises(PassError, match=reason):
        PassPipeline((LowerKvCache(LENGTH),)).run(Graph(model))


def test_a_window_is_a_mask_over_the_slot(make: Any, apply: Any) -> None:
    after, _ = apply(LowerKvCache(LENGTH), make(mask="WINDOW"))
    reads = [node.inputs for node in after.graph if node.op_type == "Attention"]
    assert [len(inputs) for inputs in reads] == [4, 4]
    assert reads[0][3] is reads[1][3]
    assert [str(dim) for dim in reads[0][3].shape] == ["batch", "1", "sequence", str(LENGTH)]


@pytest.mark.parametrize(("length", "inputs"), [(20, 7), (21, 4)])
def test_a_window_that_no_slot_reaches_is_none(
    make: Any, apply: Any, length: int, inputs: int
) -> None:
    after, _ = apply(LowerKvCache(length), make(mask="WINDOW", window=20))
    reads = [len(node.inputs) for node in after.graph if node.op_type == "Attention"]
    assert reads == [inputs, inputs]


def test_a_slot_longer_than_the_position_table_is_refused(make: Any, apply: Any) -> None:
    model = make(positions="TABLE")  # 40 rows, looked up from 2 on
    assert apply(LowerKvCache(38), model)[1].rewrites == 2
    with pytest.raises(PassError, match=r"'places' has 40 rows, 38 positions, .* hold 39 tokens"):
        PassPipeline((LowerKvCache(39),)).run(Graph(model))


def test_a_slot_holds_some_tokens(make: Any) -> None:
    with pytest.raises(PassError, match="expected a length of at least 16, got 15"):
        PassPipeline((LowerKvCache(15),)).run(Graph(make()))


def test_a_name_that_is_taken_is_refused(make: Any) -> None:
    model = make(("attention_mask", "write_indices"))
    with pytest.raises(PassError, match="has an input 'write_indices' already"):
        PassPipeline((LowerKvCache(LENGTH),)).run(Graph(model))


class TestCacheDtype:
    """LowerCacheDtype, after a conversion of precision."""

    STEPS = (LowerKvCache(LENGTH), ConvertPrecision(), LowerCacheDtype(), CleanUp())

    def test_caches_take_the_dtype_of_the_body(self, make: Any) -> None:
        done = PassPipeline(self.STEPS).run(Graph(make()))
        assert done.history[2].rewrites == 4
        assert {spec.dtype for spec in done.inputs[2:] + done.outputs[1:]} == {"float16"}
        assert done.outputs[0].dtype == "float32"
        assert [spec.name for spec in done.outputs[1:3]] == ["present_key_0", "present_value_0"]
        # What is left casts the logits.
        assert done.op_counts["Cast"] == 1
        for node in done.model.graph:
            if node.op_type == "TensorScatter":
                assert node.inputs[0].is_graph_input()
                assert node.outputs[0].is_graph_output()

    def test_the_answers_are_those_of_half_precision(
        self, make: Any, run: Any, decoders: Any
    ) -> None:
        model = make()
        done = PassPipeline(self.STEPS).run(Graph(model)).model

        def static(feeds: Any) -> Any:
            caches = {k: v.astype(np.float16) for k, v in feeds.items() if k.startswith("past_")}
            return run(done, feeds | caches)

        replay = decoders.Replay(
            lambda feeds: run(model, feeds), static, slots=2, length=LENGTH, heads=2
        )
        assert max(replay.step(6, 3), replay.step(1, 1), replay.step(1, 4)) < 3e-2

    def test_a_second_run_changes_nothing(self, make: Any, apply: Any) -> None:
        done = PassPipeline(self.STEPS).run(Graph(make())).model
        assert not apply(LowerCacheDtype(), done)[1].modified

    def test_a_cache_that_is_read_twice_keeps_its_dtype(self, make: Any, apply: Any) -> None:
        model = PassPipeline(self.STEPS[:2]).run(Graph(make())).model
        cast = next(
            node
            for node in model.graph
            if node.op_type == "Cast" and node.inputs[0].name == "past_key_0"
        )
        tape = ir.tape.Tape()
        copy = tape.op("Neg", [cast.outputs[0]])
        copy.name, copy.type, copy.shape = "copy", cast.outputs[0].type, cast.outputs[0].shape
        model.graph.extend(tape.nodes)
        model.graph.outputs.append(copy)
        _, outcome = apply(LowerCacheDtype(), model)
        assert outcome.rewrites == 3
        assert outcome.refusals[0].reason == "the cache 'past_key_0' is read by others too"
