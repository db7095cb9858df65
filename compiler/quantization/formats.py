"""What each quantised precision means for a graph, and where its ranges come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...calibration.ranges.estimators import AbsoluteMaximum
from ...calibration.run import AUTO, calibrate
from ...calibration.statistics.profile_store import ProfileStore
from ...calibration.table import CalibrationTable
from ...calibration.text.data import CalibrationSet
from ...calibration.text.tokenization import Tokenize
from ...errors import CalibrationError
from ...graph.model import Graph
from ...passes.presets import Precision
from ...passes.qdq.params import FP8, INT8, Scheme
from ...passes.qdq.policy import QuantPlan, QuantPolicy
from ..progress import Journal

_POLICIES: Mapping[Precision, QuantPolicy] = {
    "int8": QuantPolicy(),
    "int8-weight-only": QuantPolicy(weight_only=True),
    "fp8": QuantPolicy(scheme=FP8),
}
_METHODS: Mapping[Scheme, str] = {
    INT8: AUTO,
    # A float format has room for outliers: smoothing gives MiniLM 21.7 to 22.1 dB, none 21.9.
    FP8: AbsoluteMaximum.name,
}

CAVEATS: Mapping[tuple[str, Precision], str] = {
    ("ort-cpu", "int8-weight-only"): "weights of a byte make the engine smaller, hardly faster; "
    "ONNX Runtime multiplies them with activations that it rounds to int8, 32 at a time",
    ("tensorrt-rtx", "fp8"): "GPUs before SM89 have no FP8, the plan does not run on them",
}
"""What a target makes of a precision that its name does not say."""


def policy_of(
    precision: Precision, *, embeddings: bool = False, float_attention: bool = False
) -> QuantPolicy:
    """The policy of a quantised precision.

    Args:
        precision: of the linears.
        embeddings: large tables are quantised too.
        float_attention: the linears around an attention are not.
    """
    return replace(_POLICIES[precision], embeddings=embeddings, projections=not float_attention)


def ranges_of(
    graph: Graph,
    data: CalibrationSet,
    tokenize: Tokenize,
    policy: QuantPolicy,
    journal: Journal,
    threads: int = 0,
    store: ProfileStore | None = None,
) -> CalibrationTable:
    """Calibrate as far as the policy needs it.

    Raises:
        CalibrationError: when text or graph give no usable ranges, or there is nothing to quantise.
    """
    _check_plan(policy.plan(graph.model), policy)
    if policy.weight_only:
        return CalibrationTable.without_ranges(graph.digest())
    with journal.stage("calibrate"):
        return calibrate(
            graph,
            data,
            tokenize,
            policy=policy,
            method=_METHODS[policy.scheme],
            threads=threads,
            store=store,
            on_progress=journal.listener.advanced,
        )


def _check_plan(plan: QuantPlan, policy: QuantPolicy) -> None:
    if policy.embeddings and not plan.tables:
        reasons = "; ".join(f"{item.node}: {item.reason}" for item in plan.float_tables)
        raise CalibrationError(
            "INT8 embeddings: expected a table of embeddings to quantise, found none "
            f"({reasons or 'no rows of a constant matrix are looked up'}); leave the option out"
        )
    if policy.weight_only and not plan.linears:
        reasons = "; ".join(f"{item.node}: {item.reason}" for item in plan.refusals[:3])
        raise CalibrationError(
            "int8 weights: expected GEMMs with constant weights to quantise, found none "
            f"({reasons or 'the graph has no MatMul or Gemm'}); use a float precision"
        )
