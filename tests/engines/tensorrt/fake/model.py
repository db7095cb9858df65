"""What a fake plan computes: a numpy function, or an ONNX graph run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PLAN = b"a fake plan"

Tensors = Mapping[str, tuple[str, tuple[int | str, ...]]]


@dataclass
class FakeModel:
    """Named axes and dtypes of the tensors, the function, and weights it reads when it runs."""

    inputs: Tensors
    outputs: Tensors
    function: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of_onnx(cls, model: bytes) -> FakeModel:
        """A model that ONNX Runtime runs on one thread."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model, options)
        names = [argument.name for argument in session.get_outputs()]
        return cls(
            inputs=_tensors(session.get_inputs()),
            outputs=_tensors(session.get_outputs()),
            function=lambda feeds: dict(zip(names, session.run(names, feeds), strict=True)),
        )


def onnx_plan(model: bytes) -> bytes:
    """A plan that computes what an ONNX model does."""
    return PLAN + b"\n" + model


def model_of(plan: bytes, model: FakeModel | None) -> FakeModel | None:
    """What a plan computes; None when it is no plan."""
    if plan.startswith(PLAN + b" "):
        from .onnx_model import OnnxModel

        return OnnxModel.read(plan)
    if plan.startswith(PLAN + b"\n"):
        return FakeModel.of_onnx(plan.removeprefix(PLAN + b"\n"))
    return model if plan == PLAN else None


def _tensors(arguments: Any) -> dict[str, tuple[str, tuple[int | str, ...]]]:
    names = {"float": "float32", "double": "float64"}
    found = {}
    for argument in arguments:
        kind = argument.type.removeprefix("tensor(").removesuffix(")")
        found[argument.name] = (names.get(kind, kind), tuple(argument.shape))
    return found
