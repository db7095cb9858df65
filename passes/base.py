"""The contract of a rewrite pass: a frozen value that turns one model into another and says why.

How to write a pass:

1. one file, one frozen dataclass deriving from `Pass`; its fields are its options;
2. `call` changes the model it is given in place (the pipeline hands it a clone) and returns a
   `PassResult` with the number of rewrites and the refusals;
3. keep names of graph inputs and outputs, value types and topological order;
4. a second run on the result must report ``modified=False``;
5. state `min_opset`, the first opset in which every operator the pass emits exists.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, fields
from typing import ClassVar

import onnx_ir as ir

from ..errors import OpsetError
from ..graph.history import Refusal

EXACT = 1e-5
"""Tolerance of passes that only reorder float32 sums: 1e-7 to 2e-6 measured on 12 layers."""


@dataclass
class PassResult(ir.passes.PassResult):
    """The upstream result (model, modified) with what fuselage reports about it.

    Attributes:
        rewrites: how many matches were replaced.
        refusals: matches declined, each with rule, node and reason.
    """

    rewrites: int = 0
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class Pass(ir.passes.InPlacePass):
    """Abstract base; concrete passes are final.

    Attributes:
        name: verb-noun in kebab case, for example ``fuse-gelu``.
        min_opset: first standard opset that has all operators the pass emits.
        required: True when the build cannot go on without it, so that nothing is downgraded.
    """

    name: ClassVar[str]
    min_opset: ClassVar[int] = 1
    required: ClassVar[bool] = False

    @property
    def tolerance(self) -> float | None:
        """Largest relative (Frobenius) change of an output; None when numbers may change freely."""
        return EXACT

    @property
    def spec(self) -> str:
        """Name and options, as written into manifests: ``convert-precision(dtype='float16')``."""
        options = ", ".join(
            f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr
        )
        return f"{self.name}({options})" if options else self.name

    def requires(self, model: ir.Model) -> None:
        """Check the opset before anything is rewritten.

        Raises:
            OpsetError: when the graph imports an older opset than the pass emits.
        """
        opset = model.opset_imports.get("", 0)
        if opset < self.min_opset:
            raise OpsetError(
                f"pass {self.name}: emits operators of opset {self.min_opset}, but the graph "
                f"imports opset {opset}; run raise-opset first"
            )

    @abc.abstractmethod
    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""


def result(model: ir.Model, rewrites: int, refusals: tuple[Refusal, ...] = ()) -> PassResult:
    """A PassResult whose `modified` follows from the number of rewrites."""
    return PassResult(model, modified=rewrites > 0, rewrites=rewrites, refusals=refusals)
