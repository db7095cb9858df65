"""Replace whatever computes the mask of an attention by the canonical chain of its meaning.

    Attention(q, k, v, <any subgraph that says which keys count>)
      ->  Attention(q, k, v, <the chain of masks/write.py>)

What a subgraph says is found by running it (masks/probe.py), so its spelling does not matter. A
mask with a learned bias in it is taken apart at its sums and choices:

    Where(keep, bias, fill), Add(bias, mask)  ->  Add(bias, <chain>)

Masks that are added up are added up still, so that keys hidden by one of them are above those
hidden by two, which is where eager attention puts the weights of a query without any other key:

    Add(Where(past, 0, fill), Where(padding, 0, fill))  ->  Add(<chain>, <chain>)

A mask that hides nothing goes away; a purely causal one becomes ``is_causal`` where queries and
keys are equally many (measured equal in time on ONNX Runtime's CPU, and no mask to keep). A mask
with another meaning is refused with the first position that differs, and only its fills are
made finite (masks/soften.py).

All layers of a meaning share one chain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..constants import insert_before, int_attribute, producer, scalar_of
from .cone import dim_name
from .fill import MASKED_BELOW
from .meaning import Mask, Miss, Uneven
from .probe import meaning_of_cone
from .read import attention_mask
from .sizes import Geometry, Role, Roles, geometry_of
from .soften import soften
from .write import Length, Lengths, write_mask


@dataclass(frozen=True)
class SimplifyAttentionMask(Pass):
    """Give every Attention whose mask has a known meaning the canonical mask of that meaning."""

    name = "simplify-attention-mask"
    min_opset = 23

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        masks = _Masks(model)
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            if node.op_type != "Attention" or node.domain or attention_mask(node) is not None:
                continue
            try:
                masks.simplify(node)
                rewrites += 1
            except Miss as miss:
                refusals.append(Refusal(self.name, node.name or "?", str(miss)))
                rewrites += masks.soften(node)
        if rewrites:
            model.graph.sort()  # a chain serves nodes before the one it was written for
        return result(model, rewrites, tuple(refusals))


@dataclass(frozen=True)
class _Term:
    """A summand of a mask.

    Attributes:
        value: boolean or float.
        hides: whether a boolean value is true where a key is hidden.
    """

    value: ir.Value
    hides: bool = False


@dataclass(frozen=True)
class _Masks:
    """The masks of one model, each looked at once."""

    model: ir.Model
    _known: dict[tuple[_Term, bool | None], tuple[Mask, Roles] | Miss] = field(default_factory=dict)
    _chains: dict[tuple[Mask, Lengths, ir.DataType], ir.Value] = field(default_factory=dict)
    _sums: dict[tuple[ir.Value, ir.Value], ir.Value] = field(default_factory=dict)
    _softened: dict[ir.Value, ir.Value | None] = field(default_factory=dict)

    def simplify(self, node: ir.Node) -> None:
        """Rewrite the mask of one Attention.

        Raises:
            Miss: with the reason, when its meaning is not known; nothing is changed then.
        """
        mask = node.inputs[3]
        assert mask is not None
        dtype = _dtype(node)
        geometry = geometry_of(node, self.model.graph)
        meanings, roles, summands = self._read(mask, geometry)
        if int_attribute(node, "is_causal", 0):
            if not roles.is_square:
                raise Miss(
                    "is_causal counts from the first key, but there are more keys than queries"
                )
            meanings = [meaning.both(Mask(ahead=0)) or meaning for meaning in meanings]
        is_causal = roles.is_square and not summands and meanings == [Mask(ahead=0)]
        if is_causal or "is_causal" in node.attributes:
            node.attributes["is_causal"] = ir.AttrInt64("is_causal", int(is_causal))
        if not is_causal:
            summands += [
                self._chain(meaning, self._lengths(node, meaning, roles), dtype)
                for meaning in meanings
                if not meaning.is_empty
            ]
        new = reduce(self._sum, summands) if summands else None
        if new is None and len(node.inputs) == 4:
            node.resize_inputs(3)
        else:
            node.replace_input_with(3, new)

    def soften(self, node: ir.Node) -> int:
        """Make the fills of a mask that stays finite; how many masks changed."""
        mask, query = node.inputs[3], node.inputs[0]
        if mask is None or query is None or query.dtype is None:
            return 0
        if mask not in self._softened:
            self._softened[mask] = soften(self.model.graph, mask, query.dtype)
        new = self._softened[mask]
        if new is None:
            return 0
        node.replace_input_with(3, new)
        return 1

    def _read(self, mask: ir.Value, geometry: Geometry) -> tuple[list[Mask], Roles, list[ir.Value]]:
        """The meanings of what is added up in a mask, and what else is."""
        whole = self._meaning(_Term(mask), geometry)
        if not isinstance(whole, Miss):
            return [whole[0]], whole[1], []
        meanings: dict[Mask, Roles] = {}
        biases: list[ir.Value] = []
        expand = producer(mask, "Expand") if isinstance(whole, Uneven) else None
        summands = _summands(mask if expand is None else expand.inputs[0])
        if isinstance(whole, Uneven) and len(summands) == 1:
            raise whole
        for summand in summands:
            meaning, roles, rest = self._read_summand(summand, geometry)
            biases += rest
            if meaning is not None:
                meanings[meaning] = roles
        if not meanings or (expand is not None and biases):
            raise whole
        in_order = sorted(meanings, key=lambda meaning: meaning.padding is not None)
        return in_order, next(iter(meanings.values())), biases

    def _read_summand(
        self, summand: ir.Value, geometry: Geometry
    ) -> tuple[Mask | None, Roles, list[ir.Value]]:
        """What one summand hides, if anything, and what it adds besides."""
        parts = [(term, self._meaning(term, geometry)) for term in _terms(summand)]
        biases = [term.value for term, found in parts if isinstance(found, Miss)]
        for term, found in parts:
            if isinstance(found, Miss) and (_is_bool(term) or isinstance(found, Uneven)):
                raise found
        known = [found for _, found in parts if not isinstance(found, Miss)]
        if not known:
            return None, Roles(names={}, fixed={}, is_square=False), biases
        meaning, roles = known[0]
        for other, _ in known[1:]:
            both = meaning.both(other)
            if both is None:
                raise Miss(f"two inputs are padding masks: {meaning} and {other}")
            meaning = both
        return meaning, roles, biases

    def _meaning(self, term: _Term, geometry: Geometry) -> tuple[Mask, Roles] | Miss:
        key = term, geometry.is_square  # one mask of two attentions has the sizes of both
        if key not in self._known:
            opset = self.model.opset_imports[""]
            try:
                self._known[key] = meaning_of_cone(
                    term.value, geometry, self.model.graph, opset, hides=term.hides
                )
            except Miss as miss:
                self._known[key] = miss
        return self._known[key]

    def _chain(self, meaning: Mask, lengths: Lengths, dtype: ir.DataType) -> ir.Value:
        key = meaning, lengths, dtype
        if key not in self._chains:
            tape = ir.tape.Tape()
            self._chains[key] = write_mask(self.model.graph, tape, meaning, lengths, dtype)
            insert_before(self.model.graph[0], tape.nodes)
        return self._chains[key]

    def _sum(self, left: ir.Value, right: ir.Value) -> ir.Value:
        if (left, right) not in self._sums:
            tape = ir.tape.Tape()
            self._sums[left, right] = tape.op("Add", [left, right])
            insert_before(self.model.graph[0], tape.nodes)
        return self._sums[left, right]

    def _lengths(self, node: ir.Node, meaning: Mask, roles: Roles) -> Lengths:
        """Where the sizes are read: from inputs of the graph where one has them."""
        query, key = node.inputs[0], node.inputs[1]
        past = node.inputs[4] if len(node.inputs) > 4 else None
        assert query is not None
        assert key is not None
        keys = self._input_dim("keys", roles) or (_length(key),)
        if meaning.padding is not None:
            keys = ((meaning.padding, 1),)
        elif past is not None:
            keys = ((past, 2), _length(key))
        if roles.is_square:
            return Lengths(keys, keys)
        return Lengths(self._input_dim("queries", roles) or (_length(query),), keys)

    def _input_dim(self, role: Role, roles: Roles) -> Length:
        for value in self.model.graph.inputs:
            for axis in range(len(value.shape or ())):
                name = dim_name(value, axis)
                if isinstance(name, str) and roles.names.get(name) == role:
                    return ((value, axis),)
        return ()


def _summands(mask: ir.Value | None) -> list[ir.Value]:
    if mask is None:
        return []
    add = producer(mask, "Add")
    return [mask] if add is None else [part for value in add.inputs for part in _summands(value)]


def _terms(mask: ir.Value) -> list[_Term]:
    """Take a mask apart at its sums and at the choices between something and a fill."""
    add, where = producer(mask, "Add"), producer(mask, "Where")
    if add is not None:
        return [term for value in add.inputs if value is not None for term in _terms(value)]
    if where is None:
        return [_Term(mask)]
    condition, shown, hidden = where.inputs
    assert condition is not None
    assert shown is not None
    assert hidden is not None
    for rest, fill, hides in ((shown, hidden, False), (hidden, shown, True)):
        number = scalar_of(fill)
        if number is not None and number <= MASKED_BELOW:
            kept = [] if scalar_of(rest) == 0.0 else _terms(rest)
            return [_Term(condition, hides), *kept]
    return [_Term(mask)]


def _is_bool(term: _Term) -> bool:
    return term.value.dtype == ir.DataType.BOOL


def _length(value: ir.Value) -> tuple[ir.Value, int]:
    assert value.shape is not None
    return value, len(value.shape) - 2


def _dtype(node: ir.Node) -> ir.DataType:
    query = node.inputs[0]
    if query is None or query.dtype is None:
        raise Miss("the type of the queries is unknown; infer shapes first")
    return query.dtype
