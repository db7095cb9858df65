"""Turn a growing key/value cache into static slots that are written in place.

    present = Concat(past, new)                   [batch, kv heads, past + s, size]
    y = Attention(Q, present..., causal mask)
      ->
    present = TensorScatter(past, new, write_indices)   [batch, kv heads, length, size]
    y = Attention(Q, present..., nonpad_kv_seqlen = write_indices + s, is_causal)

Row b keeps ``write_indices[b]`` tokens from earlier calls and appends s. Padding is at the end of
a chunk: what it writes lies beyond the row's length and is overwritten by the next call. So the
padding mask is an input no more. A sliding window becomes a mask over the slot instead of lengths.
docs/decoders.md has the whole contract.

Source: https://onnx.ai/onnx/operators/onnx__TensorScatter.html,
https://onnx.ai/onnx/operators/onnx__Attention.html (opset 24, causal over nonpad_kv_seqlen)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...errors import PassError
from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..constants import (
    initializer,
    insert_before,
    int_attribute,
    producer,
    remove_dead,
    replace_value,
    static_dim,
)
from .cache_mask import windows_of
from .cache_positions import replace_positions
from .cache_samples import DecoderInputs
from .cache_sizes import ask_tokens_for_sizes
from .kv_cache import CachedAttention, find_cached_attention

WRITE_INDICES = "write_indices"
"""The input that says how many tokens each row keeps."""

CACHE_LENGTH = 1024
"""Tokens a slot holds unless another number is asked for."""

_OPSET = 24
_SHORTEST = 16
"""Masks and positions are told apart by samples of up to this many tokens."""


@dataclass(frozen=True)
class LowerKvCache(Pass):
    """Make every cache of a decoder static; all of them or none.

    Attributes:
        length: tokens a slot holds.
    """

    name = "lower-kv-cache"
    min_opset = 23
    required: ClassVar[bool] = True
    length: int = CACHE_LENGTH

    @property
    def tolerance(self) -> None:
        """The inputs are others afterwards, so the numbers cannot be compared call by call."""
        return

    def requires(self, model: ir.Model) -> None:
        """Any graph will do: one too old for Attention has no cache to lower."""

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph.

        Raises:
            PassError: when a cache cannot be made static, with the reason.
        """
        found, misses = find_cached_attention(model.graph)
        if not found:
            loose = _loose_caches(model.graph)
            refusals = [
                *misses,
                *(f"no fused attention reads the cache {name!r}" for name in loose),
            ]
            return result(model, 0, tuple(Refusal(self.name, "", text) for text in refusals))
        caches = [value for match in found for value in match.past]
        inputs = DecoderInputs.of(model.graph, caches)
        self._check(model, found, misses)
        masks = [match.mask for match in found if match.mask is not None]
        windows = windows_of(model, inputs, masks, self.length)
        _Lowering(model, inputs, self.length).run(found, windows)
        return result(model, len(found))

    def _check(
        self, model: ir.Model, found: tuple[CachedAttention, ...], misses: list[str]
    ) -> None:
        if self.length < _SHORTEST:
            raise PassError(f"expected a length of at least {_SHORTEST}, got {self.length}")
        if any(value.name == WRITE_INDICES for value in model.graph.inputs):
            raise PassError(f"the graph has an input {WRITE_INDICES!r} already")
        stray = _stray_caches(model.graph, found)
        if reasons := [*misses, *stray, *_other_readers(found)]:
            raise PassError("; ".join(reasons))


def _loose_caches(graph: ir.Graph) -> list[str]:
    """Inputs that are concatenated into an output, as a cache is."""
    return [
        value.name or "?"
        for value in graph.inputs
        if any(
            producer(use.node.outputs[0], "Concat") and use.node.outputs[0].is_graph_output()
            for use in value.uses()
        )
    ]


def _stray_caches(graph: ir.Graph, found: tuple[CachedAttention, ...]) -> list[str]:
    """Inputs that look like the caches found and are none of them, such as cropped ones."""
    ours = {value for match in found for value in match.past}
    heads = {(match.kv_heads, match.head_size) for match in found}
    return [
        f"{use.node.op_type} {use.node.name!r} reads {value.name!r}, a cache that no attention has"
        for value in graph.inputs
        if value not in ours and (static_dim(value, 1), static_dim(value, 3)) in heads
        for use in value.uses()
        if use.node.op_type != "Shape"
    ]


def _other_readers(found: tuple[CachedAttention, ...]) -> list[str]:
    """What reads a cache and is neither its attention nor a question for its shape."""
    ours = {match.node for match in found}
    ours |= {node for match in found for v in match.present if (node := v.producer()) is not None}
    return [
        f"{use.node.op_type} {use.node.name!r} reads the cache {value.name!r} too"
        for match in found
        for value in dict.fromkeys((*match.past, *match.present))
        for use in value.uses()
        if use.node not in ours and not (value in match.past and use.node.op_type == "Shape")
    ]


class _Lowering:
    """One run: what all attentions share is recorded once, in front of all other nodes."""

    def __init__(self, model: ir.Model, inputs: DecoderInputs, length: int) -> None:
        self._model = model
        self._graph = model.graph
        self._inputs = inputs
        self._length = length
        shape = inputs.tokens.shape
        assert shape is not None
        self._batch, self._sequence = shape[0], shape[1]
        self._shared = ir.tape.Tape()
        self._windows: dict[int, ir.Value] = {}

    def run(
        self, found: tuple[CachedAttention, ...], windows: Mapping[ir.Value, int | None]
    ) -> None:
        """Rewrite attentions, positions and the interface.

        Args:
            found: every attention with a cache.
            windows: of each mask, how many keys a query sees; None for all earlier ones.
        """
        write = self._input()
        lengths = self._lengths(write)
        positions = self._positions(write)
        for match in found:
            window = None if match.mask is None else windows[match.mask]
            shown = None if window is None else self._window(window, positions)
            self._replace(match, write, lengths, shown)
        remove_dead(*reversed(tuple(self._graph)))  # masks go, and with them what counts keys
        ask_tokens_for_sizes(self._graph, self._inputs)
        replace_positions(self._model, self._inputs, self._shared, positions, self._length)
        insert_before(self._graph[0], self._shared.nodes)
        remove_dead(*reversed(tuple(self._graph)))
        self._drop_padding()
        self._graph.opset_imports[""] = max(_OPSET, self._graph.opset_imports[""])

    def _input(self) -> ir.Value:
        write = ir.Value(
            name=WRITE_INDICES,
            type=ir.TensorType(ir.DataType.INT64),
            shape=ir.Shape([self._batch]),
        )
        self._graph.inputs.insert(self._graph.inputs.index(self._inputs.tokens) + 1, write)
        for value in self._inputs.caches:
            value.shape = self._static(value)
        return write

    def _static(self, past: ir.Value) -> ir.Shape:
        assert past.shape is not None
        return ir.Shape([self._batch, past.shape[1], self._length, past.shape[3]])

    def _lengths(self, write: ir.Value) -> ir.Value:
        self._count = self._shared.op("Shape", [self._inputs.tokens], {"start": 1, "end": 2})
        self._count.type, self._count.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
        lengths = self._shared.op("Add", [write, self._count])
        lengths.type, lengths.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([self._batch])
        return lengths

    def _positions(self, write: ir.Value) -> ir.Value:
        def constant(name: str, array: list[int] | int) -> ir.Value:
            return initializer(self._graph, f"positions.{name}", np.array(array, np.int64))

        op = self._shared.op
        count = op("Squeeze", [self._count, constant("axis", [0])])
        steps = op("Range", [constant("start", 0), count, constant("step", 1)])
        positions = op("Add", [op("Unsqueeze", [write, constant("column", [1])]), steps])
        positions.type = ir.TensorType(ir.DataType.INT64)
        positions.shape = ir.Shape([self._batch, self._sequence])
        return positions

    def _window(self, size: int, positions: ir.Value) -> ir.Value:
        """Bool [batch, 1, sequence, length]: the last ``size`` places up to that of the query."""
        if size in self._windows:
            return self._windows[size]
        op, graph = self._shared.op, self._graph
        places = initializer(graph, "window.places", np.arange(self._length))
        axes = initializer(graph, "window.axes", np.array([1, 3], np.int64))
        width = initializer(graph, "window.size", np.array(size, np.int64))
        query = op("Unsqueeze", [positions, axes])
        earlier = op("LessOrEqual", [places, query])
        near = op("Greater", [places, op("Sub", [query, width])])
        shown = op("And", [earlier, near])
        shown.type = ir.TensorType(ir.DataType.BOOL)
        shown.shape = ir.Shape([self._batch, 1, self._sequence, self._length])
        self._windows[size] = shown
        return shown

    def _replace(
        self, match: CachedAttention, write: ir.Value, lengths: ir.Value, shown: ir.Value | None
    ) -> None:
        tape = ir.tape.Tape()
        heads = int_attribute(match.node, "q_num_heads", 0)
        query, *new = match.query, match.key, match.value
        if heads:
            query = self._split(tape, query, heads, match.head_size)
            new = [self._split(tape, v, match.kv_heads, match.head_size) for v in new]
        presents = []
        for past, value, present in zip(match.past, new, match.present, strict=True):
            written = tape.op("TensorScatter", [past, value, write], {"axis": -2, "mode": "linear"})
            written.type, written.shape = present.type or past.type, self._static(past)
            presents.append(written)
        attributes = {"is_causal": 0 if shown is not None else 1}
        if "scale" in match.node.attributes:
            attributes["scale"] = match.node.attributes["scale"].value
        by_length = [None, None, None, lengths]
        read = [query, *presents, *(by_length if shown is None else [shown])]
        answer = tape.op("Attention", read, attributes, name=match.node.name)
        answer.type = match.node.outputs[0].type
        if heads:
            answer = self._merge(tape, answer, heads * match.head_size)
        insert_before(match.node, tape.nodes)
        replace_value(match.node.outputs[0], answer)
        for old, written in zip(match.present, presents, strict=True):
            replace_value(old, written)

    def _split(self, tape: ir.tape.Tape, flat: ir.Value, heads: int, size: int) -> ir.Value:
        to = initializer(self._graph, "split_heads", np.array([0, 0, heads, size], np.int64))
        split = tape.op("Reshape", [flat, to])
        split.type = flat.type
        new = tape.op("Transpose", [split], {"perm": [0, 2, 1, 3]})
        new.type, new.shape = flat.type, ir.Shape([self._batch, heads, self._sequence, size])
        return new

    def _merge(self, tape: ir.tape.Tape, answer: ir.Value, width: int) -> ir.Value:
        to = initializer(self._graph, "merge_heads", np.array([0, 0, width], np.int64))
        swapped = tape.op("Transpose", [answer], {"perm": [0, 2, 1, 3]})
        swapped.type = answer.type
        merged = tape.op("Reshape", [swapped, to])
        merged.type = answer.type
        return merged

    def _drop_padding(self) -> None:
        for value in self._inputs.padding:
            if readers := [use.node for use in value.uses()]:
                raise PassError(
                    f"{readers[0].op_type} {readers[0].name!r} reads the padding "
                    f"{value.name!r} outside of a mask; expected masks and positions alone"
                )
            self._graph.inputs.remove(value)
