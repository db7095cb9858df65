"""From a subgraph to what it means, by running it.

Exporters spell one mask in a dozen ways (GatherND over ranges, Flatten and Gather, Expand guards,
tables, Trilu), so no spelling is matched. The subgraph is run on tokens alone, which shows the
band, and then on every padding of all small shapes (all paddings of one shape are the rows of one
batch) and on random ones at a size beyond each constant inside it: a window of 64 looks like no
window until the sequence is longer. What agrees with a meaning everywhere has that meaning; for
all else the first difference is the reason.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Array
from .cone import Cone, cone_of
from .fill import MASKED_BELOW
from .meaning import Mask, Miss, Uneven
from .run import Runner
from .sizes import Geometry, Probe, Roles, assignments

_LARGE_SIZE = 256  # beyond, a limit is moved rather than reached
_LARGEST_SIZE = 2048
_MARGIN = 64  # two constants of a cone may add up
_SHIFTED = (40, 57)  # where large limits are moved to
_SMALL = ((1, 1), (1, 2), (2, 2), (1, 3), (2, 3), (3, 3))
_MORE_QUERIES = ((2, 1), (3, 2), (5, 3))
_TRIAL = Probe(2, 3, 8)  # every size differs, the past's too
_MOST_EXHAUSTIVE = 4  # keys whose paddings are all tried


def meaning_of_cone(
    root: ir.Value, geometry: Geometry, graph: ir.Graph, opset: int, *, hides: bool = False
) -> tuple[Mask, Roles]:
    """What a value means as the mask of an attention, and what its sizes are called.

    Args:
        root: boolean (true keeps) or float (0 keeps, a fill hides), of 2 or 4 dimensions.
        geometry: of the attention.
        graph: the main graph.
        opset: of the graph.
        hides: whether a boolean root is true where a key is hidden.

    Raises:
        Miss: with the reason, when it is no mask or another one.
        Uneven: when it is one, but for what it does to a query without any key.
    """
    cone = cone_of(root)
    padding = _padding_of(cone)
    large = cone.large_limits(_LARGE_SIZE, _LARGEST_SIZE)
    if not large:
        return _meaning(cone, padding, geometry, graph, opset, hides=hides)
    # A window of 4096 would take masks of 4160 x 4160: it is moved to two small sizes instead.
    found = []
    for target in _SHIFTED:
        shift = min(large) - target
        meaning, roles = _meaning(
            cone.shifted(_LARGE_SIZE, shift), padding, geometry, graph, opset, hides=hides
        )
        found.append(meaning.widened(shift, beyond=target // 2))
    if found[0] != found[1]:
        raise Miss(
            f"the constants {sorted(large)} do not move the mask by as much as they are moved: "
            f"{found[0]}, but {found[1]}"
        )
    return found[0], roles


def _meaning(
    cone: Cone,
    padding: ir.Value | None,
    geometry: Geometry,
    graph: ir.Graph,
    opset: int,
    *,
    hides: bool,
) -> tuple[Mask, Roles]:
    trial = _Trial(Runner(cone, opset), hides)
    roles = _roles_of(trial, cone, padding, geometry, graph)
    probe = _long_probe(trial, roles, cone)
    band = _band(trial, roles, probe)
    meanings = [band]
    if padding is not None:
        meanings = [
            replace(band, padding=padding),
            replace(band, padding=padding, pads_queries=True),
        ]
    reasons = []
    for meaning in meanings[: 1 + roles.is_square]:
        reason = _difference(trial, roles, meaning, probe)
        if reason is None:
            _check_even(trial, roles, meaning)
            return meaning, roles
        reasons.append(f"the mask is not {meaning}: {reason}")
    raise Miss(reasons[0])


def _padding_of(cone: Cone) -> ir.Value | None:
    """The one graph input whose contents count, which must be able to be a padding mask."""
    if not cone.reads:
        return None
    names = ", ".join(sorted(str(value.name) for value in cone.reads))
    if len(cone.reads) > 1:
        raise Miss(f"the mask depends on {names}, not on one padding mask")
    (padding,) = cone.reads
    if padding.shape is None or len(padding.shape) != 2:
        raise Miss(f"the mask depends on {names} of shape {padding.shape}, not 2-D")
    if _is_looked_up(padding):
        raise Miss(f"the mask depends on {names}, which holds ids: a table is read at them")
    return padding


def _is_looked_up(value: ir.Value) -> bool:
    """Whether something is read at the value, which then holds ids."""
    for use in value.uses():
        if use.node.op_type == "Gather" and use.idx == 1:
            return True
        if use.node.op_type in ("Cast", "Identity") and _is_looked_up(use.node.outputs[0]):
            return True
    return False


@dataclass(frozen=True)
class _Trial:
    """One mask, run at many sizes."""

    run: Runner
    hides: bool

    def __call__(self, contents: Array, roles: Roles, probe: Probe) -> tuple[Array, Array, Array]:
        """The raw mask, what it keeps and what it hides, all [batch or 1, heads, queries, keys]."""
        got = self.run(contents, roles.numbers(probe))
        if got.ndim not in (2, 4):
            raise Miss(f"it has {got.ndim} dimensions, not 4")
        wide = got.reshape((1,) * (4 - got.ndim) + got.shape)
        sizes = (probe.batch, wide.shape[1], probe.queries, probe.keys)
        if any(size not in (1, wanted) for size, wanted in zip(wide.shape, sizes, strict=True)):
            raise Miss(
                f"it has shape {list(got.shape)} for {probe.batch} rows of {probe.queries} "
                f"queries and {probe.keys} keys"
            )
        wide = np.broadcast_to(wide, sizes)
        if wide.dtype == np.bool_:
            kept = np.logical_not(wide) if self.hides else wide
            return wide, kept, np.logical_not(kept)
        return wide, np.equal(wide, 0), np.less_equal(wide, MASKED_BELOW)


def _roles_of(
    trial: _Trial, cone: Cone, padding: ir.Value | None, geometry: Geometry, graph: ir.Graph
) -> Roles:
    """The one reading of the sizes under which the mask has a mask's shape."""
    found: list[tuple[Roles, Array]] = []
    reason = Miss("the sizes of the mask are unknown")
    for roles in assignments(cone.symbols, geometry, padding, graph):
        if found and found[0][0].is_square != roles.is_square:
            break
        if padding is not None and not roles.hold_for(padding):
            reason = Miss(
                f"{padding.name} has shape {padding.shape}, expected one number a key, {geometry}"
            )
            continue
        probe = roles.fit(_TRIAL)
        contents = np.random.default_rng(0).integers(0, 2, (probe.batch, probe.keys))
        try:
            found.append((roles, trial(contents, roles, probe)[0]))
        except Miss as miss:
            reason = miss
    if not found:
        raise reason
    first = found[0]
    for other in found[1:]:
        if not np.array_equal(first[1], other[1]):
            raise Miss(
                f"the sizes {', '.join(sorted(cone.symbols))} can be read in more than one way"
            )
    return first[0]


def _long_probe(trial: _Trial, roles: Roles, cone: Cone) -> Probe:
    """Sizes beyond every constant of the cone, or the largest its tables allow."""
    numbers = sorted({*map(math.ceil, cone.numbers())})
    tables = sorted({*cone.table_dims()})
    largest = max([2, *numbers, *tables])
    length = largest + max([_MARGIN, *numbers[-2:-1]]) + 3
    probe = roles.fit(Probe(1, length, length + (0 if roles.is_square else 2)))
    if not tables:
        return probe
    try:
        trial(np.ones((probe.batch, probe.keys), np.int64), roles, probe)
    except Miss:  # a table ends before; the model does too
        return roles.fit(Probe(1, tables[0], tables[0]))
    return probe


def _band(trial: _Trial, roles: Roles, probe: Probe) -> Mask:
    """How far back and ahead a query sees where there is no padding."""
    _, kept, _ = trial(np.ones((probe.batch, probe.keys), np.int64), roles, probe)
    queries, keys = np.nonzero(kept[0, 0])
    if not queries.size:
        raise Miss("the mask hides every key of every query")
    distance = keys - queries - (probe.keys - probe.queries)
    back, ahead = -int(distance.min()), int(distance.max())
    return Mask(
        back=None if back == probe.keys - 1 else back,
        ahead=None if ahead == probe.queries - 1 else ahead,
    )


def _difference(trial: _Trial, roles: Roles, meaning: Mask, long: Probe) -> str | None:
    """Where the mask and the meaning differ first, or None."""
    for contents, probe in _cases(roles, meaning, long):
        raw, kept, hidden = trial(contents, roles, probe)
        wanted = np.broadcast_to(meaning.keeps(contents, probe.queries), raw.shape)
        right = np.where(wanted, kept, hidden)
        if right.all():
            continue
        row, _, query, key = place = tuple(int(i) for i in np.argwhere(~right)[0])
        state = "kept" if kept[place] else "hidden"
        if not kept[place] and not hidden[place]:
            state = f"given {float(raw[place]):g}"
        return (
            f"at {probe.queries} queries and {probe.keys} keys, row {row} query {query} "
            f"key {key} is {state}"
        )
    return None


def _check_even(trial: _Trial, roles: Roles, meaning: Mask) -> None:
    """Eager attention gives a row that is all padding to the highest fills."""
    if meaning.padding is None:
        return
    probe = roles.fit(_TRIAL)
    raw = trial(np.zeros((probe.batch, probe.keys), np.int64), roles, probe)[0]
    uneven = raw.min(axis=-1) != raw.max(axis=-1)
    if uneven.any():
        row, head, query = (int(i) for i in np.argwhere(uneven)[0])
        given = raw[row, head, query]
        raise Uneven(
            f"query {query} of {probe.queries} has no key, and hidden keys are given "
            f"{float(given.min()):g} and {float(given.max()):g}"
        )


def _cases(roles: Roles, meaning: Mask, long: Probe) -> Iterator[tuple[Array, Probe]]:
    shapes = list(_SMALL)
    if not roles.has_past and not meaning.has_band:
        shapes += _MORE_QUERIES
    fitted = (roles.fit(Probe(1, *shape)) for shape in (*shapes, (3, 7)))
    probes = dict.fromkeys([*fitted, roles.fit(long)])
    for probe in probes:
        if meaning.padding is None:
            yield np.ones((probe.batch, probe.keys), np.int64), probe
            continue
        paddings = _paddings(probe.keys)
        if "batch" in roles.fixed:
            step = probe.batch
            padded = np.concatenate([paddings, np.ones((-len(paddings) % step, probe.keys), int)])
            for start in range(0, len(padded), step):
                yield padded[start : start + step], probe
            continue
        yield paddings, replace(probe, batch=len(paddings))
        if probe.keys <= 2:  # a single row, which some spellings treat apart
            yield from ((row[None], probe) for row in paddings)


def _paddings(keys: int) -> Array:
    """All paddings of a few keys; of many, every single token, every single gap, and random."""
    if keys <= _MOST_EXHAUSTIVE:
        return np.array(list(itertools.product((0, 1), repeat=keys)), np.int64)
    random = np.random.default_rng(keys).integers(0, 2, (2, keys))
    if keys > 2 * _MARGIN:
        return random
    single = np.eye(keys, dtype=np.int64)
    return np.concatenate([random, single, 1 - single])
