"""Whether two graphs are the same but for the values of their weights."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import BuildError, BundleError
from .mode import WeightMode
from .table import STUB

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from ....graph.model import Graph


def difference(old: ir.Model, new: ir.Model) -> str | None:
    """The first difference of two graphs, as what was expected and got; None when there is none.

    Weights may differ in their values; whole numbers and truth values may not, because a compiler
    has taken them for sizes and axes.
    """
    pairs = zip_longest(_lines(old), _lines(new), fillvalue="nothing")
    return next((f"expected {a}, got {b}" for a, b in pairs if a != b), None)


def check_refittable(folder: Path, mode: WeightMode, graph: Graph) -> None:
    """Refuse a plan that takes no other weights, and a graph that it was not built from.

    Raises:
        BuildError: with the first difference and what to do.
        BundleError: when the graph beside the plan is missing or damaged.
    """
    import onnx_ir as ir

    from ....graph.weights import detach_weights

    if mode.refit != "any":
        fixed = (
            "its weights are fixed" if mode.refit is None else "it was stripped of its own alone"
        )
        raise BuildError(
            f"{folder.name}: this plan takes no other weights ({fixed}); it must be built again, "
            "which --rebuild does; a build with --refittable makes one that takes them"
        )
    path = folder / STUB
    try:
        old = ir.from_proto(_proto(path.read_bytes()))
    except Exception as error:  # protobuf has errors of its own for each way to be damaged
        raise BundleError(f"{path}: expected the graph of the plan ({error}); rebuild") from error
    new = ir.from_proto(_proto(detach_weights(graph.model).graph))
    if (found := difference(old, new)) is not None:
        raise BuildError(
            f"{folder.name}: the new weights give another graph than the plan was built from: "
            f"{found}; it must be built again, which --rebuild does"
        )


def _proto(content: bytes) -> onnx.ModelProto:
    import onnx

    return onnx.load_from_string(content)


def _lines(model: ir.Model) -> Iterator[str]:
    graph = model.graph
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            yield f"{kind} {value.name} {value.type} {value.shape}"
    for name, value in sorted(graph.initializers.items()):
        yield f"weight {name} {_tensor(value.const_value)}"
    for node in graph:
        inputs = ", ".join(value.name or "" if value else "" for value in node.inputs)
        attributes = " ".join(f"{name}={item.value}" for name, item in node.attributes.items())
        outputs = ", ".join(value.name or "" for value in node.outputs)
        yield f"node {node.op_type} ({inputs}) {attributes} -> {outputs}"


def _tensor(held: ir.TensorProtocol | None) -> str:
    if held is None:
        return "without a value"
    shape = ",".join(map(str, held.shape))
    is_weight = held.dtype.is_floating_point()
    values = "" if is_weight or held.nbytes > 1024 else f" {held.numpy().tolist()}"
    return f"{held.dtype.name}[{shape}]{values}"
