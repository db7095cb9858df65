"""Decoders with static caches: every attention fused in both profiles, with the right lengths."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.engines.base import BuildConfig
from fuselage.engines.tensorrt.attention import (
    attention_layers,
    caches_of,
    lost_attention,
    onnx_name,
    set_key_lengths,
)
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.engines.tensorrt.kernels import EngineListing, Kernel
from fuselage.engines.tensorrt.log import LogLines, make_logger
from fuselage.engines.tensorrt.network import parse_network
from fuselage.errors import BuildError
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile
from fuselage.graph.weights import detach_weights
from fuselage.passes.normalize.infer_shapes import InferShapes
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import lowering

PROFILE = ShapeProfile.parse("batch=1:2:4,sequence=1:8:16")
CACHE = [(part, layer) for layer in range(2) for part in ("key", "value")]

Decoder = Callable[..., Graph]


@pytest.fixture(scope="module")
def texts() -> ModuleType:
    """tests/passes/static_cache/decoders.py"""
    path = Path(__file__).parents[2] / "passes" / "static_cache" / "decoders.py"
    spec = importlib.util.spec_from_file_location("decoders_for_engines", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def decoder(texts: ModuleType) -> Decoder:
    """A lowered two-layer decoder."""

    def make(precision: str = "fp16", **options: Any) -> Graph:
        options = {name: getattr(texts, str(value), value) for name, value in options.items()}
        text, constants = texts.decoder(**options)
        logging.disable(logging.WARNING)  # the text parser wonders where the constants are
        try:
            model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 23]>\n{text}')
        finally:
            logging.disable(logging.NOTSET)
        values = ir.convenience.create_value_mapping(model.graph)
        for name in constants.keys() & values.keys():
            value, tensor = values[name], ir.tensor(np.asarray(constants[name]), name=name)
            value.const_value, value.dtype = tensor, tensor.dtype
            value.shape = ir.Shape(tensor.shape)
            model.graph.register_initializer(value)
        for node in model.graph:
            node.name = f"n_{node.outputs[0].name}"
        steps = lowering("tensorrt-rtx", precision, cache_length=32)  # type: ignore[arg-type]
        return PassPipeline((InferShapes(), *steps)).run(Graph(model))

    return make


@pytest.fixture
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    pytest.importorskip("tensorrt_rtx")

    def run(graph: Graph, *targets: str, profile: ShapeProfile = PROFILE) -> dict[str, Any]:
        config = BuildConfig(profile=profile, compute_capabilities=targets)
        backend = TensorRtBackend.of("tensorrt-rtx")
        return dict(backend.build(graph, config, tmp_path).facts)

    return run


@pytest.mark.parametrize("target", ["SM80", "SM89", "SM120"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "TABLE", "flat": True},
        {"positions": "TABLE", "concat": True},
        {"mask": "WINDOW"},
    ],
    ids=["grouped-rotary", "flat-learnt", "concatenated", "window"],
)
def test_every_attention_is_fused_in_both_profiles(
    decoder: Decoder, build: Any, options: dict[str, Any], target: str
) -> None:
    facts = build(decoder(**options), target)
    assert facts["kernels"]["fused_attention"] == 2
    assert facts["decode_kernels"]["fused_attention"] == 2
    assert facts["decomposed_attention"] == []
    assert facts["warnings"] == []
    assert facts["caches"] == {f"present_{p}_{i}": f"past_{p}_{i}" for p, i in CACHE}
    assert facts["profiles"] == [
        {"batch": [1, 2, 4], "sequence": [1, 8, 16]},
        {"batch": [1, 2, 4], "sequence": [1, 1, 1]},
    ]
    assert facts["profile"] == facts["profiles"][0]
    dtypes = {entry["name"]: entry["dtype"] for entry in facts["inputs"] + facts["outputs"]}
    assert {dtypes[f"{side}_{p}_{i}"] for side in ("past", "present") for p, i in CACHE} == {
        "float16"
    }
    counted = [sum(k["profile"] == profile for k in facts["kernel_list"]) for profile in (0, 1)]
    assert counted == [facts["kernels"]["total"], facts["decode_kernels"]["total"]]


def test_kernels_take_the_lengths_of_the_rows(decoder: Decoder, build: Any) -> None:
    kernels = [k for k in build(decoder(), "SM89")["kernel_list"] if "_mha_v" in k["name"]]
    prefill, decode = kernels[:2], kernels[2:]
    # In prefill: lengths less new tokens, and which blocks of keys they show. In decoding: lengths.
    assert [k["dtypes"].count("Int32") for k in prefill] == [2, 2]
    assert [k["dtypes"].count("Int32") for k in decode] == [1, 1]
    assert all("_gemm_mha" in k["name"] for k in prefill)
    # A kernel for one query a row reads the cache as it is, no repeated heads.
    assert all("_gemv_mha" in k["name"] for k in decode)


def test_a_profile_of_one_token_is_the_only_one(decoder: Decoder, build: Any) -> None:
    one = ShapeProfile.parse("batch=1:2:4,sequence=1:1:1")
    facts = build(decoder(), "SM89", profile=one)
    assert facts["profiles"] == [{"batch": [1, 2, 4], "sequence": [1, 1, 1]}]
    assert facts["decode_kernels"] is None
    assert facts["kernels"]["fused_attention"] == 2


def test_bfloat16_fuses_too(decoder: Decoder, build: Any) -> None:
    facts = build(decoder("bf16"), "SM89")
    assert [facts[k]["fused_attention"] for k in ("kernels", "decode_kernels")] == [2, 2]


class TestKeyLengths:
    """What the parser leaves open, seen in the network itself."""

    def parse(self, trt: Any, graph: Graph) -> tuple[Any, ...]:
        lines = LogLines()
        logger = make_logger(trt, lines, verbose=False)
        builder = trt.Builder(logger)
        return parse_network(trt, builder, logger, lines, graph), builder, logger

    def test_the_parser_alone_would_look_at_the_first_key(self, trt: Any, decoder: Decoder) -> None:
        """When this fails the parser has learnt better, and set_key_lengths can go."""
        logger = make_logger(trt, LogLines(), verbose=False)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        detached = detach_weights(decoder().model)
        assert parser.load_model_proto(detached.graph)
        for name, array in detached.weights.items():
            assert parser.load_initializer(name, array.ctypes.data, array.nbytes)
        assert parser.parse_model_proto()
        for layer in attention_layers(trt, network):
            assert layer.attention.causal_kind == trt.CausalMaskKind.UPPER_LEFT
            assert layer.attention.key_value_lengths is None

    def test_lengths_and_alignment_are_set(self, trt: Any, decoder: Decoder) -> None:
        graph = decoder()
        parsed, *_keep = self.parse(trt, graph)
        layers = list(attention_layers(trt, parsed.network))
        assert [onnx_name(layer) for layer in layers] == ["n_a_0", "n_a_1"]
        held = [layer.attention.key_value_lengths for layer in layers]
        assert {(lengths.dtype, tuple(lengths.shape)) for lengths in held} == {
            (trt.DataType.INT32, (-1,))
        }
        assert len({lengths.name for lengths in held}) == 1
        kinds = {layer.attention.causal_kind for layer in layers}
        assert kinds == {trt.CausalMaskKind.LOWER_RIGHT}

    def test_lengths_without_a_causal_mask_hide_padding_alone(
        self, trt: Any, decoder: Decoder
    ) -> None:
        graph = decoder().clone()
        for node in graph.model.graph:
            if node.op_type == "Attention":
                node.attributes["is_causal"] = ir.AttrInt64("is_causal", 0)
        parsed, *_keep = self.parse(trt, graph)
        for layer in attention_layers(trt, parsed.network):
            assert layer.attention.causal_kind == trt.CausalMaskKind.NONE
            assert layer.attention.key_value_lengths is not None

    def test_a_network_that_forgets_fails_the_build(self, decoder: Decoder) -> None:
        with pytest.raises(BuildError, match="but TensorRT holds None and NONE; an engine of it"):
            set_key_lengths(*network(decoder(), forgetful=True))

    def test_a_tensorrt_without_lengths_fails_the_build(self, decoder: Decoder) -> None:
        trt, net, graph = network(decoder())
        del trt.CausalMaskKind
        with pytest.raises(BuildError, match=r"but TensorRT 10\.15\.1 knows no key lengths"):
            set_key_lengths(trt, net, graph)

    def test_lengths_that_were_not_imported_fail_the_build(self, decoder: Decoder) -> None:
        with pytest.raises(BuildError, match=r"key lengths '.*', which TensorRT did not import"):
            set_key_lengths(*network(decoder(), lengths="elsewhere"))

    def test_attention_that_is_missing_fails_the_build(self, decoder: Decoder) -> None:
        with pytest.raises(BuildError, match="imported 1 attention layers of 2 Attention nodes"):
            set_key_lengths(*network(decoder(), names=("n_a_0",)))

    def test_attention_of_another_name_fails_the_build(self, decoder: Decoder) -> None:
        with pytest.raises(BuildError, match="'n_a_0' was imported as 'n_a_1_AttentionInput'"):
            set_key_lengths(*network(decoder(), names=("n_a_1", "n_a_0")))

    def test_a_stand_in_that_remembers_passes(self, decoder: Decoder) -> None:
        trt, net, graph = network(decoder())
        set_key_lengths(trt, net, graph)
        held = [layer.attention for layer in net.layers[:2]]
        assert [a.causal_kind for a in held] == ["LOWER_RIGHT"] * 2
        assert [a.key_value_lengths.name for a in held] == ["lengths_cast"] * 2


def network(
    graph: Graph,
    *,
    names: tuple[str, ...] = ("n_a_0", "n_a_1"),
    lengths: str | None = None,
    forgetful: bool = False,
) -> tuple[Any, Any, Graph]:
    """A stand-in for a network with two attention layers and the layer that makes the lengths."""

    class Forgetful:
        causal_kind = "NONE"
        key_value_lengths = None

        def __setattr__(self, name: str, value: object) -> None:
            if not forgetful:
                object.__setattr__(self, name, value)

    class Layer(SimpleNamespace):
        pass

    node = next(node for node in graph.model.graph if node.op_type == "Attention")
    made = SimpleNamespace(name=lengths or node.inputs[6].name, dtype="INT64")
    cast = SimpleNamespace(name="lengths_cast", dtype="INT32")
    layers = [
        Layer(type="A", name=f"{name}_AttentionInput", attention=Forgetful(), num_outputs=0)
        for name in names
    ]
    layers.append(Layer(type="E", num_outputs=1, get_output=lambda _: made))
    net = SimpleNamespace(
        layers=layers,
        num_layers=len(layers),
        num_inputs=0,
        get_layer=layers.__getitem__,
        add_cast=lambda *_: SimpleNamespace(get_output=lambda _: cast),
    )
    trt = SimpleNamespace(
        __version__="10.15.1",
        LayerType=SimpleNamespace(ATTENTION_INPUT="A"),
        IAttentionInputLayer=Layer,
        DataType=SimpleNamespace(INT32="INT32"),
        CausalMaskKind=SimpleNamespace(LOWER_RIGHT="LOWER_RIGHT", NONE="NONE"),
    )
    return trt, net, graph


class TestLostAttention:
    def kernel(self, name: str, node: str, profile: int = 0) -> Kernel:
        return Kernel(
            name=name, kind="kgen", inputs=(), constants=(), outputs=(), nodes=(node,),
            profile=profile,
        )  # fmt: skip

    def listing(self, *kernels: Kernel) -> EngineListing:
        return EngineListing(kernels=kernels, activation_bytes=None, weight_bytes=None)

    def test_attention_must_be_fused_in_every_profile(self, decoder: Decoder) -> None:
        graph = decoder()
        whole = [
            self.kernel(f"_gemm_mha_v2_myl{profile}_{index}", f"n_a_{index}", profile)
            for profile in range(2)
            for index in range(2)
        ]
        assert lost_attention(graph, self.listing(*whole), 2, ()) == ()
        found = lost_attention(graph, self.listing(*whole[:3]), 2, ())
        assert [(lost.node, lost.reason) for lost in found] == [
            ("n_a_1", "the builder chose no fused attention kernel for it")
        ]

    def test_a_log_without_kernels_tells_nothing(self, decoder: Decoder) -> None:
        assert lost_attention(decoder(), self.listing(), 2, ()) == ()


def test_what_key_lengths_touch_is_listed(
    traced: set[tuple[str, str]], decoder: Decoder, build: Any, fakes: ModuleType
) -> None:
    build(decoder(), "SM89")
    api = next(api for version, api in fakes.API.items() if version.startswith("tensorrt_rtx"))
    unlisted = {(owner, name) for owner, name in traced if name not in api.get(owner, [])}
    assert unlisted == {("ILogger", "log")}, "TensorRT calls the log, not we"
    assert {("IAttention", "key_value_lengths"), ("IAttention", "causal_kind")} <= traced


def test_caches_are_named_by_output(decoder: Decoder) -> None:
    assert caches_of(decoder()) == {f"present_{p}_{i}": f"past_{p}_{i}" for p, i in CACHE}
