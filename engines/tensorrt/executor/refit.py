"""New weights for an open plan that was built to take them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....errors import DeviceError, FeedError
from ....graph.tensors import Array
from ..plan import OpenPlan


class HalfRefittedError(DeviceError):
    """Some weights are new and some old; the engine must not run."""


def refit(plan: OpenPlan, weights: Mapping[str, Array]) -> None:
    """Replace weights; no work of the engine may be queued. Its contexts stay valid.

    Args:
        plan: the open plan.
        weights: name in the plan -> values of the dtype and size it was built with.

    Raises:
        DeviceError: when the plan was not built to be refitted.
        FeedError: on names the plan has not, other dtypes or sizes, or weights that TensorRT
            merged with some that are not given; nothing has changed then.
        HalfRefittedError: when TensorRT fails midway.
    """
    if not plan.engine.refittable:
        raise DeviceError(
            f"this {plan.target} engine was built with its weights fixed; build one that can be "
            "refitted, or build this one again from the new weights"
        )
    refitter = plan.trt.Refitter(plan.engine, plan.logger)
    if unknown := sorted(set(weights) - set(refitter.get_all_weights())):
        raise FeedError(f"refit: the engine has no weights named {', '.join(unknown)}")
    # TensorRT reads them when it refits, so they must live until then.
    held = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    for name, array in held.items():
        if not refitter.set_named_weights(name, array):
            raise FeedError(
                f"refit: {name!r} cannot take {array.dtype}{list(array.shape)}: "
                f"{plan.lines.take_problems()}"
            )
    if missing := sorted(refitter.get_missing_weights()):
        raise FeedError(f"refit: expected {', '.join(missing)} as well, which depend on the others")
    if not refitter.refit_cuda_engine():
        raise HalfRefittedError(f"{plan.target} cannot refit: {plan.lines.take_problems()}")
