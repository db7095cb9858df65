"""How much GPU memory the weights of a plan may take; the rest stays with the host and streams."""

from __future__ import annotations

from ....errors import DeviceError
from ..cuda import Cuda
from ..plan import OpenPlan


def set_budget(
    plan: OpenPlan, cuda: Cuda, asked: int | None, *, streamed: bool, total: int
) -> str | None:
    """Set the budget, before a context exists.

    Args:
        plan: just opened.
        cuda: to ask what is free.
        asked: bytes of GPU memory for the weights that can be streamed; None for what TensorRT
            thinks best.
        streamed: whether the plan was built for it.
        total: bytes of all weights, 0 when the build did not say.

    Returns:
        A note of what streams; None when nothing does.

    Raises:
        DeviceError: on a budget for a plan whose weights do not stream, one that is below what
            TensorRT takes, or weights that do not fit what is free even so.
    """
    if not streamed:
        if asked is not None:
            raise DeviceError(
                f"weight_streaming_budget={asked:,}: this {plan.target} engine was built without "
                "weight streaming; build it with --weight-streaming, or leave the budget out"
            )
        return None
    streamable = int(plan.engine.streamable_weights_size)
    budget = _budget(plan, asked, streamable)
    _check_free(cuda, max(total, streamable) - streamable + budget)
    try:
        plan.engine.weight_streaming_budget_v2 = budget
        taken = int(plan.engine.weight_streaming_budget_v2)
    except RuntimeError:
        taken = -1
    if taken != budget:
        raise DeviceError(
            f"weight_streaming_budget={budget:,}: {plan.target} does not take it for "
            f"{streamable:,} bytes of weights that can be streamed: {plan.lines.take_problems()}; "
            "give a larger one, or none for TensorRT's choice"
        )
    if budget >= streamable:
        return None
    return (
        f"{streamable - budget:,} of {streamable:,} bytes of weights stay in host memory and are "
        "copied in each call"
    )


def _budget(plan: OpenPlan, asked: int | None, streamable: int) -> int:
    if asked is None:
        asked = int(plan.engine.get_weight_streaming_automatic_budget())
    return min(max(asked, 0), streamable)


def _check_free(cuda: Cuda, needed: int) -> None:
    free, _ = cuda.memory()
    if needed > free:
        raise DeviceError(
            f"the weights that stay on the GPU take {needed:,} bytes, but it has {free:,} free; "
            "load the engine with a smaller weight_streaming_budget"
        )
