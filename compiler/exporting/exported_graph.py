"""Make the exporter's graph fit to be read: weights by their names, nodes by their modules.

The exporter folds the transposed weight of every linear layer into a constant called, say,
``val_84``, names nodes ``node_MatMul_85`` and keeps Python stack traces in the file. Reports,
refusals and quantisation settings speak of nodes and weights by name, so the names must say which
layer is meant, and a file must not tell on which machine it was made.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import onnx_ir as ir
import torch

from .exporter_repairs import SCOPES_KEY, repair
from .tasks import BATCH, SEQUENCE

_ROOT = "model."
"""Name of the transformers model inside `TaskModule`."""

_BOUNDED = re.compile(r"Min\(\d+, (\w+)\)")


def tidy(model: ir.Model, module: torch.nn.Module) -> None:
    """Rename weights, nodes and dims in place and drop the exporter's metadata.

    Args:
        model: what the exporter returned.
        module: the module it was made from; its parameters give the weights their names.
    """
    _share_weights(model, module)
    repair(model)
    _name_nodes(model, {name for name, _ in module.named_modules()})
    _name_dims(model)
    _separate_names(model)
    _drop_metadata(model)


def _share_weights(model: ir.Model, module: torch.nn.Module) -> None:
    """Initializers become plain arrays on the parameters' memory, under the parameters' names."""
    parameters = {
        (parameter.data_ptr(), parameter.numel()): (name.removeprefix(_ROOT), parameter.numpy())
        for name, parameter in module.named_parameters()
    }
    initializers = model.graph.initializers
    values = tuple(initializers.values())
    initializers.clear()
    for value in values:
        tensor = value.const_value
        assert tensor is not None
        array = tensor.numpy()
        name = (value.name or "").removeprefix(_ROOT)
        owner = parameters.get((array.__array_interface__["data"][0], array.size))
        if owner is not None:
            is_transposed = array.strides != owner[1].strides
            name = f"{owner[0]}.T" if is_transposed else owner[0]
        value.name = _free_name(name, set(initializers))
        value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=value.name)
        initializers.add(value)


def _free_name(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 1
    while name in taken:
        name, count = f"{wanted}_{count}", count + 1
    return name


def _name_nodes(model: ir.Model, modules: set[str]) -> None:
    taken: Counter[str] = Counter()
    for node in model.graph:
        scopes = re.findall(r"'([^']*)'", node.metadata_props.get(SCOPES_KEY, ""))
        known = [scope.removeprefix(_ROOT) for scope in scopes if scope in modules]
        module = known[-1] if known and known[-1] != _ROOT[:-1] else ""
        name = f"{module}/{node.op_type}" if module else node.op_type
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name] - 1}"


def _name_dims(model: ir.Model) -> None:
    def clean(dim: int | ir.SymbolicDim) -> int | ir.SymbolicDim:
        if isinstance(dim, int) or dim.value in (BATCH, SEQUENCE, None):
            return dim
        # "Min(512, sequence)": the slice of a position table; no valid sequence is longer.
        bounded = _BOUNDED.fullmatch(str(dim.value))
        known = bounded is not None and bounded[1] in (BATCH, SEQUENCE)
        return ir.SymbolicDim(bounded[1] if bounded and known else None)

    _each_value(model, lambda value: _reshape(value, clean))


def _reshape(
    value: ir.Value, clean: Callable[[int | ir.SymbolicDim], int | ir.SymbolicDim]
) -> None:
    if value.shape is not None and not value.is_initializer():
        value.shape = ir.Shape([clean(dim) for dim in value.shape])


def _separate_names(model: ir.Model) -> None:
    """Values get names of their own; those of inputs, outputs and weights stay.

    The exporter lets an inner value bear the name of an output (a Gather called ``embedding``),
    and ONNX Runtime refuses such a file.
    """
    kept = {
        id(value)
        for value in (
            *model.graph.inputs,
            *model.graph.outputs,
            *model.graph.initializers.values(),
        )
    }
    taken = {value.name or "" for value in model.graph.outputs}
    taken |= {value.name or "" for value in model.graph.inputs} | set(model.graph.initializers)

    def rename(value: ir.Value) -> None:
        if id(value) not in kept:
            value.name = _free_name(value.name or "value", taken)
            taken.add(value.name)

    _each_value(model, rename)


def _drop_metadata(model: ir.Model) -> None:
    def clear(value: ir.Value) -> None:
        value.metadata_props.clear()
        value.doc_string = None

    _each_value(model, clear)
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    model.doc_string = None


def _each_value(model: ir.Model, action: Callable[[ir.Value], None]) -> None:
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        action(value)
    for node in model.graph:
        for output in node.outputs:
            action(output)
