"""What modules return, under which names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fuselage.compiler.checks.activations import module_outputs
from fuselage.compiler.exporting.export import TorchReference


class _Twice(torch.nn.Module):
    """One shared layer called twice, and a part that returns two tensors, one of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.layer = torch.nn.Linear(2, 2, bias=False)
        self.model.pair = _Pair()

    def forward(self, input_ids: torch.Tensor) -> Any:
        first = self.model.layer(torch.stack([input_ids, -input_ids], -1).float())
        return (self.model.pair(self.model.layer(first))[0].relu_(),)


class _Pair(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> Any:
        return values, [values.argmax(-1), values * 2]


def test_every_call_has_a_name_and_its_own_values() -> None:
    module: Any = _Twice()
    with torch.no_grad():
        module.model.layer.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    reference = TorchReference(module, ("input_ids",), ("hidden",))
    found = module_outputs(reference, {"input_ids": np.array([[1, 2]])})
    assert [name for name, _ in found] == ["layer", "layer#2", "pair", "pair[2]"]
    arrays = dict(found)
    assert arrays["layer"].tolist() == [[[-1, 1], [-2, 2]]]
    assert arrays["layer#2"].tolist() == [[[1, -1], [2, -2]]], "what follows writes in place"
    assert arrays["pair[2]"].tolist() == [[[2, -2], [4, -4]]]
    assert not module.model.layer._forward_hooks
