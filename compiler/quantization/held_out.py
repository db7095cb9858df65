"""What text that was not calibrated with tells about single linears and activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...calibration.damage.headroom import Headroom, measure_headroom, most_clipped
from ...calibration.damage.sensitivity import LinearNoise, linear_noises
from ...calibration.run import tap_batch_tokens
from ...calibration.table import CalibrationTable
from ...calibration.text.data import CalibrationSet
from ...calibration.text.tokenization import Tokenize
from ...graph.model import Graph
from ...passes.qdq.policy import QuantPolicy
from ..progress import Journal

CLIP_RATE = 5e-4
"""On MiniLM, unseen text of the kind that was calibrated with clips 3.3e-4 of a tensor at most;
text of another kind 9.5e-4 and more, which costs 2 dB and more."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Of one calibrated graph.

    Attributes:
        noises: what each planned linear alone does to the answer, in graph order.
        headroom: how each activation uses its range, by name.
    """

    noises: tuple[LinearNoise, ...] = ()
    headroom: Mapping[str, Headroom] = field(default_factory=dict)


def examine(
    graph: Graph,
    table: CalibrationTable,
    policy: QuantPolicy,
    held_out: CalibrationSet,
    tokenize: Tokenize,
    journal: Journal,
    threads: int = 0,
) -> Findings:
    """Measure every linear and every activation on held-out text.

    Args:
        graph: the float graph that was calibrated.
        table: its ranges.
        policy: the one calibrated with.
        held_out: texts that the ranges do not come from.
        tokenize: the model's tokenizer.
        journal: gets the stages, and a note where much is clipped.
        threads: CPU threads, 0 for all physical cores.
    """
    with journal.stage("measure each linear alone"):
        noises = linear_noises(
            graph,
            table,
            held_out.batches(tokenize, graph.inputs),
            outputs=[output.name for output in graph.outputs],
            policy=policy,
            threads=threads,
            on_progress=journal.listener.advanced,
        )
    if not table.ranges:
        return Findings(noises=noises)
    with journal.stage("measure the headroom of ranges"):
        tokens = tap_batch_tokens(policy.plan(graph.model))
        batches = held_out.batches(tokenize, graph.inputs, max_tokens=tokens)
        headroom = measure_headroom(graph, table, batches, threads=threads)
    _note_clipping(headroom, journal)
    return Findings(noises=noises, headroom=headroom)


def _note_clipping(headroom: Mapping[str, Headroom], journal: Journal) -> None:
    worst = most_clipped(headroom)
    if worst is None or worst[1].clip_rate <= CLIP_RATE:
        return
    name, found = worst
    count = sum(item.clip_rate > CLIP_RATE for item in headroom.values())
    journal.note(
        f"held-out text exceeds the ranges of {count} of {len(headroom)} activations: of {name} "
        f"{found.clip_rate:.2%} is clipped, up to {found.reach:.1f} times its range; calibrate on "
        "more text, and of every kind that will come"
    )
