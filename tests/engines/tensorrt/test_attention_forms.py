"""Forms of attention that encoders use, each one fused kernel; what has none, and why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from fuselage.engines.base import BuildConfig
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.errors import BuildError
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile

pytest.importorskip("tensorrt_rtx")

PROFILE = "b=1:2:4,s=1:16:32,t=1:24:48"


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    def run(text: str, target: str = "SM89") -> dict[str, Any]:
        model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 23]>\n{text}')
        for node in model.graph:
            node.name = f"n_{node.outputs[0].name}"
        profile = ShapeProfile.parse(PROFILE)
        config = BuildConfig(profile=profile, compute_capabilities=(target,))
        backend = TensorRtBackend.of("tensorrt-rtx")
        return dict(backend.build(Graph(model), config, tmp_path).facts)

    logging.disable(logging.WARNING)
    try:
        yield run
    finally:
        logging.disable(logging.NOTSET)


def attention(
    mask: str = "", *, size: int = 64, heads: int = 4, kv_heads: int = 4, keys: str = "s",
    attributes: str = "", dtype: str = "float16",
) -> str:  # fmt: skip
    inputs = [f"{dtype}[b, {heads}, s, {size}] q"]
    inputs += [f"{dtype}[b, {kv_heads}, {keys}, {size}] {name}" for name in "kv"]
    inputs += [f"{mask} m"] if mask else []
    return (
        f"form ({', '.join(inputs)}) => ({dtype}[b, {heads}, s, {size}] y) "
        f"{{ y = Attention{attributes}(q, k, v{', m' if mask else ''}) }}"
    )


FORMS = {
    "none, as in ViT": attention(),
    "padding [b,1,s,s]": attention("float16[b, 1, s, s]"),
    "padding [b,1,1,s]": attention("float16[b, 1, 1, s]"),
    "padding, bool": attention("bool[b, 1, s, s]"),
    "position bias [1,h,s,s], as in T5": attention("float16[1, 4, s, s]"),
    "bias and padding [b,h,s,s], as in DeBERTa": attention("float16[b, 4, s, s]"),
    "grouped with a bias a head": attention("float16[1, 8, s, s]", heads=8, kv_heads=2),
    "one key head": attention(heads=8, kv_heads=1),
    "cross, as in BART": attention("float16[b, 1, s, t]", keys="t"),
    "causal": attention(attributes="<is_causal = 1>"),
    "small heads": attention(size=16),
    "odd heads": attention("float16[b, 1, s, s]", size=18),
    "large heads": attention(size=256),
}


@pytest.mark.parametrize("form", FORMS)
def test_attention_is_one_fused_kernel(build: Any, form: str) -> None:
    facts = build(FORMS[form])
    assert facts["kernels"]["fused_attention"] == 1
    assert facts["decomposed_attention"] == []


@pytest.mark.parametrize("target", ["SM80", "SM120"])
def test_a_bias_is_fused_on_other_gpus(build: Any, target: str) -> None:
    facts = build(attention("float16[1, 4, s, s]", size=16), target)
    assert facts["kernels"]["fused_attention"] == 1


def test_heads_without_a_known_count_are_fused(build: Any) -> None:
    facts = build(
        """unknown (float16[b, s, 64] x, float16[b, s, 64] z) => (float16[b, h, s, 16] y)
        {
            split = Constant<value_ints = [0, 0, -1, 16]>()
            x4 = Reshape(x, split)
            z4 = Reshape(z, split)
            q = Transpose<perm = [0, 2, 1, 3]>(x4)
            k = Transpose<perm = [0, 2, 1, 3]>(z4)
            y = Attention(q, k, k)
        }"""
    )
    assert facts["kernels"]["fused_attention"] == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (attention(size=8), "head size 8 is below 16"),
        (attention(size=264), "head size 264 is above 256, the largest with a fused kernel"),
        (attention(dtype="float"), "not for float32"),
    ],
    ids=["small", "large", "float32"],
)
def test_what_no_kernel_takes_is_decomposed_with_the_reason(
    build: Any, text: str, reason: str
) -> None:
    facts = build(text)
    assert facts["kernels"]["fused_attention"] == 0
    [lost] = facts["decomposed_attention"]
    assert lost["node"] == "n_y"
    assert reason in lost["reason"]


@pytest.mark.parametrize(
    "body",
    ["y = Attention(q, q, v)", "k = Identity(q)\n y = Attention(q, k, v)"],
    ids=["itself", "a-view"],
)
def test_queries_that_are_keys_are_refused(build: Any, body: str) -> None:
    with pytest.raises(BuildError, match="'n_y' reads 'q' as query and as key"):
        build(
            "shared (float16[b, 4, s, 16] q, float16[b, 4, s, 16] v) => (float16[b, 4, s, 16] y) "
            f"{{ {body} }}"
        )


def test_queries_that_are_scaled_keys_are_fused(build: Any) -> None:
    facts = build(
        """scaled (float16[b, 4, s, 16] k, float16[b, 4, s, 16] v) => (float16[b, 4, s, 16] y)
        {
            scale = Constant<value = float16 {13312}>()
            q = Mul(k, scale)
            y = Attention<scale = 1.0>(q, k, v)
        }"""
    )
    assert facts["kernels"]["fused_attention"] == 1


def test_values_of_another_width_are_refused_in_the_parsers_words(build: Any) -> None:
    text = attention().replace("64] v", "32] v").replace("64] y", "32] y")
    with pytest.raises(BuildError, match="must have the same head dimension"):
        build(text)
