"""Whether a plan takes the weights of a graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import BuildError, BundleError
from .mode import WeightMode
from .table import STUB

if TYPE_CHECKING:
    import onnx

    from ....graph.model import Graph


def check_refittable(folder: Path, mode: WeightMode, graph: Graph) -> None:
    """Refuse a plan that takes no other weights, and a graph that it was not built from.

    Raises:
        BuildError: with the first difference and what to do.
        BundleError: when the graph beside the plan is missing or damaged.
    """
    import onnx_ir as ir

    from ....graph.structure import difference
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
