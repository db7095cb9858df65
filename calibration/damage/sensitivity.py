"""Which linears the damage of INT8 comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...graph.model import Graph
from ...passes.qdq.policy import Linear, QuantPolicy
from ..session import GraphSession
from ..table import CalibrationTable
from ..text.batches import Batch
from .switch import SWITCH, with_switch

TEXTS, FEWEST_TEXTS = 32, 8
"""Texts to measure with. Shares of MiniLM's linears on 32 texts are within 2.3 points of those on
64, on 8 within 2.8, and name the same six as the worst."""

TOKEN_RUNS = 16384
"""Tokens times linears: to measure must not take longer than to calibrate."""

_LEAST_TOKENS = 64


_Answer = list[NDArray[np.float64]]
"""Outputs of one batch."""


@dataclass(frozen=True, kw_only=True)
class LinearNoise:
    """What one linear alone does to the model's answer when it is INT8.

    Attributes:
        linear: the linear.
        noise: energy of the answer's error over energy of the answer; of several outputs, their
            mean.
    """

    linear: Linear
    noise: float

    @property
    def macs(self) -> int:
        """Multiplications a token."""
        return self.linear.depth * self.linear.channels

    @property
    def noise_per_mac(self) -> float:
        """What leaving it in float gains for what it costs."""
        return self.noise / self.macs


def linear_noises(
    graph: Graph,
    table: CalibrationTable,
    batches: Sequence[Batch],
    *,
    outputs: Sequence[str],
    policy: QuantPolicy | None = None,
    threads: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[LinearNoise, ...]:
    """Put each linear alone into INT8 and look at the model's answer.

    The energies add up: on MiniLM the sum over 36 linears predicts the noise of all of them
    together within 0.1 dB, so no combinations need to be tried. Few texts are enough, see
    `thinned`.

    Args:
        graph: the float graph.
        table: its ranges.
        batches: of texts that the ranges do not come from, from the shortest to the longest.
        outputs: names of the outputs that count.
        policy: the one calibrated with.
        threads: CPU threads, 0 for all physical cores.
        on_progress: called with (linears done, linears in all).

    Returns:
        One entry a planned linear, in graph order.
    """
    policy = policy or QuantPolicy()
    linears = policy.plan(graph.model).linears
    chosen = thinned(batches, TEXTS, max(_LEAST_TOKENS, TOKEN_RUNS // max(1, len(linears))))
    found = []
    switched = with_switch(graph, table, policy)
    with GraphSession(switched, threads=threads, packed=True) as session:
        expected = list(_answers(session, chosen, outputs, -1))
        for number, linear in enumerate(linears):
            noise = _noise(expected, _answers(session, chosen, outputs, number))
            found.append(LinearNoise(linear=linear, noise=noise))
            if on_progress is not None:
                on_progress(number + 1, len(linears))
    return tuple(found)


def thinned(batches: Sequence[Batch], texts: int, tokens: int) -> tuple[Batch, ...]:
    """Few texts of many, of all lengths as far as the tokens allow.

    Args:
        batches: from the shortest to the longest texts.
        texts: how many to take at most.
        tokens: how many they may have together; `FEWEST_TEXTS` are taken in any case, and the
            longest ones left out first.
    """
    places = [(at, row) for at, batch in enumerate(batches) for row in range(len(batch.indices))]
    lengths = [batch.tokens // len(batch.indices) for batch in batches]
    while True:
        chosen = _spread(places, texts)
        if sum(lengths[at] for at, _ in chosen) <= tokens or len(places) <= FEWEST_TEXTS:
            break
        if texts > FEWEST_TEXTS:
            texts = max(FEWEST_TEXTS, texts * 3 // 4)
        else:
            places = places[: max(FEWEST_TEXTS, len(places) * 3 // 4)]
    rows: dict[int, list[int]] = {}
    for at, row in chosen:
        rows.setdefault(at, []).append(row)
    return tuple(_rows_of(batches[at], picked) for at, picked in rows.items())


def _spread(places: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """So many of them at equal distances."""
    count = min(count, len(places))
    return [places[(2 * number + 1) * len(places) // (2 * count)] for number in range(count)]


def _rows_of(batch: Batch, rows: list[int]) -> Batch:
    feeds = {name: array[rows] for name, array in batch.feeds.items()}
    length = batch.tokens // len(batch.indices)
    return Batch(feeds, tuple(batch.indices[row] for row in rows), length * len(rows))


def _answers(
    session: GraphSession, batches: Sequence[Batch], outputs: Sequence[str], number: int
) -> Iterator[_Answer]:
    switch = {SWITCH: np.array(number, np.int64)}
    for batch in batches:
        answer = session.run(batch.feeds | switch, outputs)
        yield [answer[name].astype(np.float64) for name in outputs]


def _noise(expected: Sequence[_Answer], answers: Iterator[_Answer]) -> float:
    energy, error = np.zeros((2, len(expected[0])))
    for wanted, got in zip(expected, answers, strict=True):
        energy += [np.square(one).sum() for one in wanted]
        error += [np.square(one - other).sum() for one, other in zip(wanted, got, strict=True)]
    return float((error / np.where(energy > 0, energy, 1.0)).mean())
