"""Run passes and hold them to the numbers of the graph they started from, as `--verify` asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast, get_args

from ...errors import BuildError
from ...graph.history import StageRecord
from ...graph.model import Graph
from ...passes.base import Pass
from ...passes.pipeline import PassPipeline, Verify
from .check_pass import NumberCheck


@dataclass(frozen=True)
class Verified:
    """What passes made of a graph.

    Attributes:
        graph: with one more history entry a pass.
        not_checked: why numbers were not compared, None when they were.
    """

    graph: Graph
    not_checked: str | None = None


def parse_verify(text: str) -> Verify:
    """Read the value of ``--verify``.

    Raises:
        BuildError: when it is another word.
    """
    if text not in get_args(Verify):
        raise BuildError(f"verify {text!r}: expected one of {', '.join(get_args(Verify))}")
    return cast(Verify, text)


def run_passes(
    passes: tuple[Pass, ...],
    graph: Graph,
    *,
    verify: Verify = "final",
    threads: int = 0,
    canonical: bool = False,
    unquantized: Graph | None = None,
    on_record: Callable[[StageRecord], None] | None = None,
) -> Verified:
    """Apply passes.

    Args:
        passes: first to last.
        graph: what they start from; it never changes.
        verify: when numbers are compared.
        threads: CPU threads of the comparison, 0 for all physical cores.
        canonical: whether the graph went through the canonical passes.
        unquantized: the float graph when the graph has Q/DQ.
        on_record: told about every pass.

    Raises:
        PassError: when a required pass fails.
    """
    if not passes:
        return Verified(graph)
    if verify == "off":
        done = PassPipeline(passes, None, on_record, verify).run(graph)
        return Verified(done, "numbers were not checked, as asked by --verify off")
    check = NumberCheck(graph, unquantized, threads, canonical=canonical)
    done = PassPipeline(passes, check, on_record, verify).run(graph)
    return Verified(done, _reason(check))


def _reason(check: NumberCheck) -> str | None:
    reasons = [f"numbers were not checked: {check.not_checked}"] if check.not_checked else []
    if check.crossed:
        passes = ", ".join(check.crossed)
        reasons.append(f"numbers were not compared across {passes}, which may change them freely")
    return "; ".join(reasons) or None
