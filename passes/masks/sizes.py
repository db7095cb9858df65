"""Which named sizes are the batch, the queries and the keys of an attention.

The names come from three places that need not agree: the tensors of the attention, the inputs of
the graph, and whatever the exporter calls the same size elsewhere. What they leave open is found
by trying (`assignments`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from .cone import dim_name, input_symbols, symbols_of
from .meaning import Miss

Role = Literal["batch", "queries", "keys", "past"]
Dim = int | str | None
_OPEN_ROLES: tuple[Role, ...] = ("keys", "queries", "past")
_MOST_OPEN = 3
_MOST_ELEMENTS = 2**26  # of a mask that is run: 256 MiB a tensor; one of 4096 positions and a half


@dataclass(frozen=True)
class Probe:
    """Sizes to run a mask at.

    Attributes:
        batch: rows.
        queries: of an attention.
        keys: of an attention, cached ones included.
    """

    batch: int
    queries: int
    keys: int

    def of(self, role: Role) -> int:
        """The size of a role; what is not new is past."""
        sizes: dict[Role, int] = {
            "batch": self.batch,
            "queries": self.queries,
            "keys": self.keys,
            "past": self.keys - self.queries,
        }
        return sizes[role]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The sizes of an attention, as its tensors name them; None is unknown.

    Attributes:
        batch: rows.
        queries: length of Q.
        keys: length of K, cached keys included.
        past: length of the cached keys the operator appends to; None without.
    """

    batch: Dim
    queries: Dim
    keys: Dim
    past: Dim = None

    def __str__(self) -> str:
        """For a reason, for example ``[batch,total]``."""
        keys = f"{self.past} + {self.queries}" if self.past is not None else self.keys
        return f"[{self.batch or '?'},{keys or '?'}]"

    @property
    def is_square(self) -> bool | None:
        """Whether there are as many queries as keys; None when the names do not tell."""
        if self.past is not None:
            return False
        if self.queries is None or self.keys is None:
            return None
        return self.queries == self.keys


def geometry_of(node: ir.Node, graph: ir.Graph) -> Geometry:
    """The sizes of an Attention node.

    Raises:
        Miss: when the rank of Q or K is unknown.
    """
    query, key = node.inputs[0], node.inputs[1]
    if query is None or key is None or query.shape is None or key.shape is None:
        raise Miss("the shape of the queries or keys is unknown; infer shapes first")
    batch, queries, keys = _named(query, 0), _named(query, -2), _named(key, -2)
    past = node.inputs[4] if len(node.inputs) > 4 else None
    if past is not None:
        length = None if past.shape is None else _named(past, 2)
        return Geometry(batch=batch, queries=queries, keys=None, past=length or "past")
    if queries != keys:  # names that inference made up say nothing when they differ
        known = input_symbols(graph)
        queries = queries if queries is not None and symbols_of(queries) <= known else None
        keys = keys if keys is not None and symbols_of(keys) <= known else None
    return Geometry(batch=batch, queries=queries, keys=keys)


def _named(value: ir.Value, axis: int) -> Dim:
    assert value.shape is not None
    dim = value.shape[axis % len(value.shape)]
    return dim if isinstance(dim, int) else dim.value


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What the symbols of a cone stand for.

    Attributes:
        names: symbol -> role.
        fixed: roles of a constant size.
        is_square: whether queries and keys are equally many by construction.
    """

    names: Mapping[str, Role]
    fixed: Mapping[Role, int]
    is_square: bool

    def fit(self, probe: Probe) -> Probe:
        """The nearest probe the constant sizes allow.

        Raises:
            Miss: when a mask of that size is too large to be run.
        """
        fitted = self._fitted(probe)
        if fitted.batch * fitted.queries * fitted.keys > _MOST_ELEMENTS:
            raise Miss(
                f"{fitted.batch} rows of {fitted.queries} queries and {fitted.keys} keys would "
                f"have to be tried; a mask is run with up to {_MOST_ELEMENTS} elements"
            )
        return fitted

    def _fitted(self, probe: Probe) -> Probe:
        batch = self.fixed.get("batch", probe.batch)
        keys = self.fixed.get("keys", probe.keys)
        queries = self.fixed.get("queries", probe.queries)
        if self.is_square:
            return Probe(batch, keys, keys)
        past = self.fixed.get("past")
        if past is not None:
            keys = queries + past
        return Probe(batch, queries, keys)

    def numbers(self, probe: Probe) -> dict[str, int]:
        """The size of every symbol."""
        return {name: probe.of(role) for name, role in self.names.items()}

    def hold_for(self, padding: ir.Value) -> bool:
        """Whether the dims of an input are the batch and the keys."""
        wanted: tuple[Role, Role] = ("batch", "keys")
        for axis, role in enumerate(wanted):
            dim = dim_name(padding, axis)
            size: int | Role | None = self.fixed.get(role) if isinstance(dim, int) else role
            if (dim if isinstance(dim, int) else self.names.get(dim)) != size:
                return False
        return True

    @property
    def has_past(self) -> bool:
        """Whether some size is that of cached keys."""
        return "past" in self.names.values() or "past" in self.fixed


def assignments(
    symbols: frozenset[str], geometry: Geometry, padding: ir.Value | None, graph: ir.Graph
) -> Iterator[Roles]:
    """Every way to read the symbols, the likeliest first.

    Raises:
        Miss: when too many symbols are open.
    """
    fixed: dict[Role, int] = {}
    for is_square in (False, True) if geometry.is_square is None else (geometry.is_square,):
        named = _known(geometry, padding, graph, fixed, is_square)
        if is_square and "queries" in fixed:
            fixed.setdefault("keys", fixed["queries"])
        unknown = sorted(symbols - named.keys())
        if len(unknown) > _MOST_OPEN:
            raise Miss(f"the sizes {', '.join(unknown)} are unknown")
        roles = ("keys",) if is_square else _OPEN_ROLES
        for guess in itertools.product(roles, repeat=len(unknown)):
            names = named | dict(zip(unknown, guess, strict=True))
            yield Roles(names=names, fixed=dict(fixed), is_square=is_square)


def _known(
    geometry: Geometry,
    padding: ir.Value | None,
    graph: ir.Graph,
    fixed: dict[Role, int],
    is_square: bool,
) -> dict[str, Role]:
    """Roles that follow from a name alone; sizes that are constant go to `fixed`."""
    named: dict[str, Role] = {}

    def learn(dim: Dim, role: Role) -> None:
        if isinstance(dim, int):
            fixed.setdefault(role, dim)
        elif dim is not None:
            named.setdefault(dim, role)

    learn(geometry.queries, "keys" if is_square else "queries")
    learn(geometry.keys, "keys")
    learn(geometry.past, "past")
    learn(geometry.batch, "batch")
    if padding is not None:
        learn(dim_name(padding, 0), "batch")
        learn(dim_name(padding, 1), "keys")
    for value in graph.inputs:
        if value.shape is None or len(value.shape) < 2:
            continue
        # constant sizes elsewhere say nothing of ours
        first = dim_name(value, 0)
        learn(first if isinstance(first, str) else None, "batch")
        third = dim_name(value, 2) if len(value.shape) == 4 else None
        learn(third if isinstance(third, str) else None, "past")  # [batch, heads, past, size]
    return named
