"""Fill an open plan with the weights of a graph, through TensorRT's own reading of that graph.

The parser renames and merges some weights when it reads a graph, so that names in the plan are not
those of the graph; ``OnnxParserRefitter`` reads it once more and finds them.
"""

from __future__ import annotations

from typing import Any

from ....errors import DeviceError
from ..executor.refit import HalfRefittedError
from ..plan import OpenPlan
from .table import PlanWeights


def refill(plan: OpenPlan, weights: PlanWeights) -> None:
    """Give a plan its weights; no work of the engine may be queued.

    Raises:
        DeviceError: when TensorRT does not take them; nothing has changed then.
        HalfRefittedError: when it fails midway.
    """
    if not plan.engine.refittable:
        raise DeviceError(
            f"this {plan.target} plan takes no weights, although engine.json says so; the files "
            "belong to different builds, rebuild the bundle"
        )
    refitter = plan.trt.Refitter(plan.engine, plan.logger)
    parser_refitter = plan.trt.OnnxParserRefitter(refitter, plan.logger)
    if not parser_refitter.load_model_proto(weights.stub):
        raise _refusal(plan, parser_refitter, "read the graph of the weights")
    for name, array in weights.arrays.items():
        if not parser_refitter.load_initializer(name, array.ctypes.data, array.nbytes):
            raise _refusal(plan, parser_refitter, f"take the weight {name!r}")
    if not parser_refitter.refit_model_proto():
        raise _refusal(plan, parser_refitter, "find the graph's weights in the plan")
    if missing := sorted(refitter.get_missing_weights()):
        raise DeviceError(
            f"{plan.target}: the graph has no weights for {', '.join(missing[:5])} of the plan; "
            "they are of different builds, rebuild the bundle"
        )
    if not refitter.refit_cuda_engine():
        raise HalfRefittedError(f"{plan.target} cannot refit: {plan.lines.take_problems()}")


def serialized(plan: OpenPlan) -> bytes:
    """The plan with the weights it has now, which takes others again.

    Raises:
        DeviceError: when TensorRT cannot write it.
    """
    serialization_config = plan.engine.create_serialization_config()
    serialization_config.set_flag(plan.trt.SerializationFlag.INCLUDE_REFIT)
    content = plan.engine.serialize_with_config(serialization_config)
    if content is None:
        raise DeviceError(f"{plan.target} cannot write the plan: {plan.lines.take_problems()}")
    return bytes(content)


def _refusal(plan: OpenPlan, parser_refitter: Any, what: str) -> DeviceError:
    reasons = [
        parser_refitter.get_error(index).desc() for index in range(parser_refitter.num_errors)
    ]
    return DeviceError(
        f"{plan.target} cannot {what}: {'; '.join(reasons) or plan.lines.take_problems()}; rebuild "
        "the engine from the graph"
    )
