"""One encoder with random weights, as a canonical graph and as a function of any array library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .part import Sizes

AXES = ("batch", "sequence")
VOCABULARY = 1000
Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Encoder:
    """BERT without position embeddings and biases of the projections: what costs time is all there.

    Attributes:
        sizes: width and depth.
        weights: by name, float32.
    """

    sizes: Sizes
    weights: Weights

    @classmethod
    def make(cls, sizes: Sizes) -> Encoder:
        """The same weights every time."""
        random = np.random.default_rng(0)
        width = sizes.hidden

        def drawn(*shape: int) -> NDArray[np.float32]:
            scale = 1 / np.sqrt(shape[0]) if shape[0] != VOCABULARY else 1.0
            return (random.standard_normal(shape) * scale).astype(np.float32)

        weights: Weights = {"table": drawn(VOCABULARY, width)}
        for layer in range(sizes.layers):
            for part in ("query", "key", "value", "output"):
                weights[f"{part}{layer}"] = drawn(width, width)
            weights[f"up{layer}"] = drawn(width, 4 * width)
            weights[f"down{layer}"] = drawn(4 * width, width)
        return cls(sizes, weights)

    def feeds(self, batch: int) -> dict[str, NDArray[np.int64]]:
        """Ids and a mask that pads every row but the first."""
        random = np.random.default_rng(batch)
        sequence = self.sizes.sequence
        lengths = random.integers(sequence // 4, sequence + 1, (batch, 1))
        lengths[0] = sequence
        mask = (np.arange(sequence) < lengths).astype(np.int64)
        ids = random.integers(1, VOCABULARY, (batch, sequence)) * mask
        return {"input_ids": ids, "attention_mask": mask}

    def flops(self, batch: int) -> float:
        """Of the products of one call."""
        width, tokens = self.sizes.hidden, batch * self.sizes.sequence
        attention = 4 * tokens * self.sizes.sequence * width
        return float(self.sizes.layers * (2 * tokens * 12 * width * width + attention))

    def graph(self) -> Any:
        """The canonical float32 graph, a `fuselage.graph.model.Graph`."""
        import onnx_ir as ir
        from onnx_ir.tape import Tape

        from fuselage.graph.model import Graph
        from fuselage.passes.normalize.infer_shapes import InferShapes
        from fuselage.passes.pipeline import PassPipeline

        feeds = [
            ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(AXES))
            for name in ("input_ids", "attention_mask")
        ]
        tape = Tape()
        held = {name: _constant(name, array) for name, array in self._arrays().items()}
        hidden = self._record(tape, feeds, held)
        for index, node in enumerate(tape.nodes):
            node.name = f"{node.op_type}_{index}"
        hidden.name, hidden.type = "hidden", ir.TensorType(ir.DataType.FLOAT)
        hidden.shape = ir.Shape((*AXES, self.sizes.hidden))
        body = ir.Graph(
            feeds,
            [hidden],
            nodes=tape.nodes,
            initializers=held.values(),
            opset_imports={"": 23},
            name="encoder",
        )
        return PassPipeline((InferShapes(),)).run(Graph(ir.Model(body, ir_version=11)))

    def _arrays(self) -> dict[str, NDArray[Any]]:
        ones = np.ones(self.sizes.hidden, np.float32)
        constants = {"ones": ones, "zeros": 0 * ones, "nothing": np.array(0, np.int64)}
        axes = {"row_axes": np.array([1, 2]), "column_axes": np.array([1, 3])}
        return {**self.weights, **constants, **axes}

    def _record(self, tape: Any, feeds: list[Any], held: dict[str, Any]) -> Any:
        def op(kind: str, *inputs: Any, **attributes: Any) -> Any:
            values = [held[item] if isinstance(item, str) else item for item in inputs]
            return tape.op(kind, values, attributes)

        ids, mask = feeds
        # ONNX Runtime takes a mask of [batch, 1, sequence, sequence] alone.
        row = op("Unsqueeze", op("Greater", mask, "nothing"), "row_axes")
        seen = op("Or", row, op("Unsqueeze", op("Less", mask, "nothing"), "column_axes"))
        hidden = op("Gather", "table", ids)
        heads = {"q_num_heads": self.sizes.heads, "kv_num_heads": self.sizes.heads}
        for layer in range(self.sizes.layers):
            parts = [op("MatMul", hidden, f"{part}{layer}") for part in ("query", "key", "value")]
            attended = op("MatMul", op("Attention", *parts, seen, **heads), f"output{layer}")
            hidden = op("LayerNormalization", op("Add", attended, hidden), "ones", "zeros")
            inner = op("Gelu", op("MatMul", hidden, f"up{layer}"))
            added = op("Add", op("MatMul", inner, f"down{layer}"), hidden)
            hidden = op("LayerNormalization", added, "ones", "zeros")
        return hidden


def _constant(name: str, array: NDArray[Any]) -> Any:
    import onnx_ir as ir

    tensor = ir.tensor(array, name=name)
    return ir.Value(
        name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape
    )
