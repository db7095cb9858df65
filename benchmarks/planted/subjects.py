"""A family with random weights as a subject of comparisons."""

from __future__ import annotations

from typing import Any

import torch
from families.models import SMALL, VOCABULARY, Family, Width, make

from fuselage.compiler.exporting.export import TorchReference
from fuselage.compiler.models.random_tokenizer import random_tokenizer_json
from fuselage.engines.text.task import TaskSpec
from fuselage.proof.subjects.torch_model import TorchSubject

_MOST_TOKENS = 128
_INPUTS = ("input_ids", "attention_mask")


class _Answers(torch.nn.Module):
    """Named inputs, a tuple of outputs: what `TorchReference` calls."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        answer = self.model(input_ids, attention_mask)
        return answer if isinstance(answer, tuple) else (answer,)


def family_subject(family: Family, width: Width = SMALL) -> TorchSubject:
    """The family in eager attention.

    Args:
        family: an encoder or decoder of text without a cache.
        width: sizes of its layers.
    """
    traced = make(family, "eager", width)
    module: Any = _Answers(traced.module).eval()
    reference = TorchReference(module, _INPUTS, traced.outputs)
    task = TaskSpec(
        task="feature-extraction", inputs=_INPUTS, outputs=traced.outputs, max_tokens=_MOST_TOKENS
    )
    tokenizer = random_tokenizer_json({"vocab_size": VOCABULARY})
    return TorchSubject(f"torch:{family.name}", reference, task, tokenizer)
