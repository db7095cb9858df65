"""The float graph that is quantised; a rebuild makes it too, without PyTorch."""

from __future__ import annotations

from ...graph.model import Graph
from ...passes.lowering.split_packed_weights import SplitPackedWeights
from ...passes.pipeline import PassPipeline


def quantizable(graph: Graph) -> Graph:
    """The graph with a product of its own for each part of packed weights.

    TensorRT moves the cut of a packed Q, K and V to the weight, and runs that product in float;
    of three INT8 products it makes one again. Smoothing goes into the columns of one part.

    Args:
        graph: canonical.
    """
    return PassPipeline((SplitPackedWeights(),)).run(graph)
