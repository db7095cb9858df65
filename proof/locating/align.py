"""Find the counterpart of every landmark, and what is wrong with it alone.

1. Run the candidate and pair each landmark with the value nearest to it.
2. Cut the candidate at the pairs that are sure, and run the pieces from the reference's values.
   Errors end at each cut, so what lies behind a fault is right again and finds its counterpart.
3. Pair again, cut at less sure pairs too, and so on until nothing changes.

What is left of each landmark is its local error: what the candidate makes of exact inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...graph.model import Graph
from ...graph.tensors import Feeds
from .forcing import echoes, in_pieces
from .inner_values import InnerValues
from .landmarks import Landmark
from .pairing import Pair, Pairing
from .tokens import Tokens

_SURE = (0.1, 0.3, *(0.5,) * 6)
"""Largest error of a pair that is cut, round by round: values without relation differ by 1. Most
faults take three rounds; behind a gross one each round sets a layer or two right."""

_SURE_ROUNDS = 3
"""Rounds before which no verdict counts."""

_SETTLED = 1e-6
"""Up to here no better counterpart is looked for."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Landmarks and their counterparts.

    Attributes:
        marks: the landmarks, in order.
        run: index of a landmark -> its counterpart and error in the run itself.
        local: the same, with everything before it exact; as in the run, where that is nearer.
        overflowed: landmarks of which a value of their shape, made of what comes before, holds NaN
            or infinity.
        infinite: values of the run itself that hold NaN or infinity, in topological order.
    """

    marks: Sequence[Landmark]
    run: dict[int, Pair]
    local: dict[int, Pair]
    overflowed: frozenset[int]
    infinite: tuple[str, ...]


def align(
    graph: Graph,
    marks: list[Landmark],
    tokens: Tokens,
    feeds: Feeds,
    verdict: Callable[[Alignment], object] = lambda _: None,
) -> Alignment:
    """Pair landmarks with values of a graph.

    Args:
        graph: of the candidate.
        marks: of the reference.
        tokens: which tokens are real.
        feeds: what both are fed.
        verdict: what is asked of the result; rounds end early when two come to the same.

    Raises:
        CalibrationError: when ONNX Runtime cannot run the graph, whole or in pieces.
    """
    pairing = Pairing(marks, tokens)
    _pair(graph, pairing, feeds)
    infinite = tuple(pairing.infinite)
    run, cuts = dict(pairing.best), dict[int, Pair]()
    found = _alignment(pairing, run, infinite)
    for number, sure in enumerate(_SURE):
        last, cuts = cuts, _cuts(pairing, sure)
        if _places(last) == _places(cuts):
            break
        pieces, forced = in_pieces(graph, cuts, marks)
        barred = {
            index: echoes(graph, pair.value, sure=pair.error <= _SURE[0])
            for index, pair in cuts.items()
        }
        pairing = Pairing(marks, tokens, barred)
        _pair(pieces, pairing, {**feeds, **forced})
        before, found = verdict(found), _alignment(pairing, run, infinite)
        if number >= _SURE_ROUNDS and before is not None and before == verdict(found):
            break
    return found


def _alignment(pairing: Pairing, run: dict[int, Pair], infinite: tuple[str, ...]) -> Alignment:
    return Alignment(
        marks=pairing.marks,
        run=run,
        local=_nearer(run, pairing.best),
        overflowed=frozenset(pairing.overflowed),
        infinite=infinite,
    )


def _nearer(run: dict[int, Pair], local: dict[int, Pair]) -> dict[int, Pair]:
    """What agrees in the run agrees, whatever a wrong cut before it makes of it."""
    return {
        index: min((pairs[index] for pairs in (local, run) if index in pairs), key=_error)
        for index in run.keys() | local.keys()
    }


def _error(pair: Pair) -> float:
    return pair.error


def _pair(graph: Graph, pairing: Pairing, feeds: Feeds) -> None:
    with InnerValues(graph) as inner:
        pairing.equal(inner.run(feeds))
        pairing.moved(inner.run(feeds), _SETTLED)


def _cuts(pairing: Pairing, most: float) -> dict[int, Pair]:
    """Values that equal a landmark up to an error, and are nearer to none in any form."""
    owners: dict[str, int] = {}
    for index in sorted(pairing.best, key=lambda one: (pairing.best[one].error, one)):
        owners.setdefault(pairing.best[index].value, index)
    return {
        index: pair
        for index in sorted(owners.values())
        if (pair := pairing.best[index]).form == "same"
        and pair.error <= most
        and pairing.marks[index].array.size == int(np.prod(pair.shape))
    }


def _places(cuts: dict[int, Pair]) -> dict[int, str]:
    return {index: pair.value for index, pair in cuts.items()}
