"""Small graphs in the canonical dialect, built with onnx_ir."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from fuselage.graph.model import Graph

HIDDEN = 64


def encoder(dtype: str = "float16", heads: int = 4, *, unused_input: bool = False) -> Graph:
    """One transformer layer; int64 ids and mask [batch, sequence] in, float32 hidden states out."""
    builder = _Builder(np.dtype(dtype))
    ids, mask = builder.input("input_ids"), builder.input("attention_mask")
    inputs = [ids, mask, *([builder.input("token_type_ids")] if unused_input else [])]
    hidden = builder.op("Gather", builder.weight("table", (50, HIDDEN)), ids)
    bias = builder.mask_bias(mask)
    query, key, value = (builder.linear(hidden, part) for part in ("query", "key", "value"))
    attention = builder.op(
        "Attention", query, key, value, bias, q_num_heads=heads, kv_num_heads=heads
    )
    hidden = builder.norm(
        builder.op("Add", builder.linear(attention, "output"), hidden), "norm_attention"
    )
    inner = builder.op("Gelu", builder.linear(hidden, "up", 4 * HIDDEN))
    hidden = builder.norm(
        builder.op("Add", builder.linear(inner, "down", rows=4 * HIDDEN), hidden), "norm_output"
    )
    return builder.graph(inputs, builder.op("Cast", hidden, to=1))


def elementwise(
    domain: str = "", op: str = "Neg", dims: tuple[int | str, int | str] = ("batch", "sequence")
) -> Graph:
    """float32 [batch, sequence] -> the same, through one operator."""
    builder = _Builder(np.dtype("float32"), dims)
    x = builder.input("x", ir.DataType.FLOAT)
    return builder.graph([x], builder.op(op, x, domain=domain), rank=2)


def positions(limit: int) -> Graph:
    """Token plus position embeddings of a table with ``limit`` positions."""
    builder = _Builder(np.dtype("float32"))
    ids = builder.input("input_ids")
    length = builder.op("Shape", ids, start=1, end=2)
    zero = builder.constant("zero", np.array([0], np.int64))
    axis = builder.constant("axis", np.array([1], np.int64))
    indices = builder.constant("indices", np.arange(limit)[None])
    rows = builder.op("Slice", indices, zero, length, axis)
    places = builder.op("Gather", builder.weight("places", (limit, HIDDEN)), rows)
    tokens = builder.op("Gather", builder.weight("tokens", (50, HIDDEN)), ids)
    return builder.graph([ids], builder.op("Add", tokens, places))


def clamped() -> Graph:
    """float16 max(x, 0.001): TensorRT's compiler warns about the missing upper bound."""
    builder = _Builder(np.dtype("float16"))
    x = builder.input("x", ir.DataType.FLOAT)
    low = builder.constant("low", np.array(1e-3, np.float16))
    bounded = builder.op("Clip", builder.op("Cast", x, to=10), low)
    return builder.graph([x], builder.op("Cast", bounded, to=1), rank=2)


class _Builder:
    def __init__(
        self,
        dtype: np.dtype[np.generic],
        dims: tuple[int | str, int | str] = ("batch", "sequence"),
    ) -> None:
        self._dtype = dtype
        self._dims = dims
        self._tape = Tape()
        self._random = np.random.default_rng(0)
        self._initializers: list[ir.Value] = []

    def input(self, name: str, dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        return ir.val(name, dtype, self._dims)

    def op(self, name: str, *inputs: ir.Value, domain: str = "", **attributes: int) -> ir.Value:
        return self._tape.op(name, list(inputs), attributes, domain=domain)

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.val(name, tensor.dtype, tensor.shape, const_value=tensor)
        self._initializers.append(value)
        return value

    def weight(self, name: str, shape: tuple[int, ...]) -> ir.Value:
        return self.constant(name, self._random.normal(0, 0.1, shape).astype(self._dtype))

    def linear(self, x: ir.Value, name: str, columns: int = HIDDEN, rows: int = HIDDEN) -> ir.Value:
        product = self.op("MatMul", x, self.weight(f"{name}.weight", (rows, columns)))
        return self.op("Add", product, self.weight(f"{name}.bias", (columns,)))

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        scale = self.weight(f"{name}.weight", (HIDDEN,))
        return self.op("LayerNormalization", x, scale, self.weight(f"{name}.bias", (HIDDEN,)))

    def mask_bias(self, mask: ir.Value) -> ir.Value:
        """0 for a token and a large negative number for padding, [batch, 1, 1, sequence]."""
        axes = self.constant("axes", np.array([1, 2], np.int64))
        code = 10 if self._dtype == np.float16 else 1
        kept = self.op("Cast", self.op("Unsqueeze", mask, axes), to=code)
        one = self.constant("one", np.array(1, self._dtype))
        far = self.constant("far", np.array(-1e4, self._dtype))
        return self.op("Mul", self.op("Sub", one, kept), far)

    def graph(self, inputs: list[ir.Value], output: ir.Value, rank: int = 3) -> Graph:
        output.name = "hidden"
        output.dtype = ir.DataType.FLOAT
        output.shape = ir.Shape((*self._dims, HIDDEN)[:rank])
        for index, node in enumerate(self._tape.nodes):
            node.name = f"{node.op_type}_{index}"
        domains = {node.domain for node in self._tape.nodes}
        graph = ir.Graph(
            inputs,
            [output],
            nodes=self._tape.nodes,
            initializers=self._initializers,
            opset_imports={"": 23} | {domain: 1 for domain in domains if domain},
            name="tiny",
        )
        return Graph(ir.Model(graph, ir_version=11))
