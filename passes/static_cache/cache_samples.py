"""Compute parts of a cached decoder for chosen lengths, to learn what they are a function of.

Exporters spell masks and positions in dozens of ways. What they compute is told apart by numbers:
the subgraph is run by the ONNX reference implementation for several batches, chunks and pasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...errors import PassError
from ...graph.tensors import Array

_COMPUTES = frozenset(
    {"MatMul", "Gemm", "Attention", "Conv", "TensorScatter", "LayerNormalization"}
)
"""Operators that no mask and no position needs with a weight; their results are activations."""
_LAYOUT = frozenset({"Cast", "Reshape", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Lengths of one sample; batch, sequence and past differ so that axes can be told apart."""

    batch: int
    sequence: int
    past: int

    @property
    def total(self) -> int:
        """Keys a query may see: past and new ones."""
        return self.past + self.sequence


@dataclass(frozen=True, kw_only=True)
class DecoderInputs:
    """What the inputs of a cached decoder are.

    Attributes:
        tokens: int [batch, sequence], looked up in the embedding table.
        padding: [batch, past + sequence], 1 where a token is; its contents make the masks.
        caches: [batch, kv heads, past, head size] each.
    """

    tokens: ir.Value
    padding: tuple[ir.Value, ...]
    caches: tuple[ir.Value, ...]

    @classmethod
    def of(cls, graph: ir.Graph, caches: Iterable[ir.Value]) -> DecoderInputs:
        """Tell the inputs apart by what reads them.

        Raises:
            PassError: when no input is looked up in a table.
        """
        held = tuple(dict.fromkeys(caches))
        others = [value for value in graph.inputs if value not in held]
        looked_up = [value for value in others if _is_looked_up(value)]
        if not looked_up:
            names = ", ".join(str(value.name) for value in others)
            raise PassError(
                f"expected an input of token ids that is looked up in a table, got {names}; "
                "export the model with input_ids"
            )
        masks = [
            v for v in others if v not in looked_up and v.shape is not None and len(v.shape) == 2
        ]
        return cls(tokens=looked_up[0], padding=tuple(masks), caches=held)

    def feeds(self, sizes: Sizes) -> dict[ir.Value, Array]:
        """Arrays of these lengths: no padding, empty contents."""
        feeds: dict[ir.Value, Array] = {
            self.tokens: np.zeros((sizes.batch, sizes.sequence), _numpy(self.tokens))
        }
        for value in self.padding:
            feeds[value] = np.ones((sizes.batch, sizes.total), _numpy(value))
        for value in self.caches:
            assert value.shape is not None
            heads, size = value.shape[1], value.shape[3]
            assert isinstance(heads, int)
            assert isinstance(size, int)
            feeds[value] = np.zeros((sizes.batch, heads, sizes.past, size), _numpy(value))
        return feeds


def _is_looked_up(value: ir.Value) -> bool:
    for use in value.uses():
        reader = use.node
        table = reader.inputs[0]
        is_lookup = reader.op_type == "Gather" and use.idx == 1
        if is_lookup and table is not None and table.const_value is not None:
            return True
        if reader.op_type in _LAYOUT and use.idx == 0 and _is_looked_up(reader.outputs[0]):
            return True
    return False


def _numpy(value: ir.Value) -> np.dtype[np.generic]:
    assert value.dtype is not None
    return value.dtype.numpy()


class Sampler:
    """Runs the subgraph behind some values.

    Args:
        model: the decoder.
        inputs: what its inputs are; the wanted values must depend on nothing else.
        wanted: values to compute.
    """

    def __init__(self, model: ir.Model, inputs: DecoderInputs, wanted: Sequence[ir.Value]) -> None:
        from onnx.reference import ReferenceEvaluator

        self._inputs = inputs
        feeds = [inputs.tokens, *inputs.padding, *inputs.caches]
        graph = ir.convenience.extract(model.graph, feeds, list(wanted))
        extracted = ir.Model(graph, ir_version=model.ir_version)
        extracted.opset_imports.update(model.opset_imports)
        self._run = ReferenceEvaluator(ir.to_proto(extracted)).run

    def __call__(self, sizes: Sizes) -> list[Array]:
        """The wanted values at these lengths.

        Raises:
            PassError: when the reference implementation cannot run the subgraph.
        """
        feeds = {value.name: array for value, array in self._inputs.feeds(sizes).items()}
        try:
            return [np.asarray(array) for array in self._run(None, feeds)]
        except Exception as error:  # the reference evaluator raises whatever numpy raises
            raise PassError(f"cannot compute it at {sizes}: {error}") from error


def cone(wanted: Iterable[ir.Value]) -> list[ir.Node]:
    """Nodes that the values are computed from, nearest first along each path."""
    seen: dict[ir.Node, None] = {}
    pending = [value.producer() for value in wanted]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen[node] = None
        pending += [value.producer() for value in node.inputs if value is not None]
    return list(seen)


def computes_activations(node: ir.Node) -> bool:
    """Whether a node's result depends on weights and tokens, and not on lengths alone."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _COMPUTES:
        return True
    return node.op_type == "Gather" and _is_table(node.inputs[0])


def _is_table(value: ir.Value | None) -> bool:
    if value is None or value.const_value is None or value.dtype is None:
        return False
    return value.dtype.is_floating_point() and len(value.const_value.shape) > 1
