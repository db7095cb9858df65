"""What every module of a PyTorch model answers on the way to the outputs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from ...graph.tensors import Array, Feeds
from ..exporting.export import TorchReference

_WRAPPERS = re.compile(r"^(model(\.|$))+")
"""What wraps a transformers model holds it under this name, which graphs leave out."""


def module_outputs(reference: TorchReference, feeds: Feeds) -> list[tuple[str, Array]]:
    """Float tensors that modules return, in the order in which they are done.

    A module that is called again, as layers that share their weights are, has the number of the
    call behind its path: ``layer#2``. Tensors that one returns behind its first have their place:
    ``layer[1]``.

    Args:
        reference: the PyTorch model.
        feeds: what it is fed.

    Returns:
        (path of the module, array), innermost modules first where several end with one tensor.
    """
    found: list[tuple[str, Array]] = []
    calls: Counter[str] = Counter()

    def listener(path: str) -> Any:
        def listen(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            del module, inputs
            calls[path] += 1
            name = path if calls[path] == 1 else f"{path}#{calls[path]}"
            for place, tensor in enumerate(_tensors(output)):
                if tensor.is_floating_point():
                    own = f"{name}[{place}]" if place else name
                    # A copy: what follows may write into the tensor in place.
                    found.append((own, tensor.detach().to("cpu", copy=True).float().numpy()))

        return listen

    handles = [
        module.register_forward_hook(listener(path))
        for long, module in reference.module.named_modules()
        if (path := _WRAPPERS.sub("", long))
    ]
    try:
        reference.run(feeds)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """Tensors of what a module returned; a cache, which is no sequence, is passed over."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for item in output.values():
            yield from _tensors(item)
    elif isinstance(output, tuple | list):
        for item in output:
            yield from _tensors(item)
