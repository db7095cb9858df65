"""What the parser leaves open about attention: lengths of the keys, and what has no fused kernel.

The parser of tensorrt_rtx 1.7.1 accepts ``nonpad_kv_seqlen`` of Attention-24, drops it without a
word, and aligns the causal mask with the first key. With a static cache a decoded token would then
see the first key of its row and no other. The network API has both, so they are set there and read
back. The kernels built then take the length of a row less its new tokens, one number a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import BuildError

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.model import Graph
    from .kernels import EngineListing

_FUSED_HEAD_DIMS = (16, 256)
"""Smallest and largest head size with a fused kernel: 8 and 257 were refused, 16 to 256 built."""

_VIEWS = frozenset({"Reshape", "Transpose", "Identity", "Cast", "Squeeze", "Unsqueeze"})

_LENGTHS = 6
"""Slot of ``nonpad_kv_seqlen`` in Attention-24."""


@dataclass(frozen=True, kw_only=True)
class Decomposed:
    """An attention node that is built from single kernels because no fused one fits.

    Attributes:
        node: name of the ONNX node.
        reason: what rules the fused kernel out.
    """

    node: str
    reason: str


def refuse_shared_query(graph: Graph) -> None:
    """Refuse attention whose queries are its keys: tensorrt_rtx 1.7.1 ends the process on it.

    Raises:
        BuildError: with the name of the first such node.
    """
    for node in graph.model.graph:
        query, key = node.inputs[:2] if node.op_type == "Attention" else (None, None)
        if query is not None and key is not None and _origin(query) is _origin(key):
            raise BuildError(
                f"Attention {node.name!r} reads {_origin(query).name!r} as query and as key, which "
                "TensorRT's compiler does not survive; multiply the query by the scale in a node "
                "of its own"
            )


def _origin(value: ir.Value) -> ir.Value:
    """The tensor behind nodes that only move its elements."""
    while (node := value.producer()) is not None and node.op_type in _VIEWS:
        if node.inputs[0] is None:
            break
        value = node.inputs[0]
    return value


def set_key_lengths(trt: Any, network: Any, graph: Graph) -> None:
    """Give attention layers the key lengths and the causal alignment that the parser dropped.

    Call it right after parsing, while lengths that nothing reads are still in the network.

    Args:
        trt: the flavour's module.
        network: the parsed ``INetworkDefinition``.
        graph: what was parsed; Attention-24 with ``nonpad_kv_seqlen`` is causal after the past.

    Raises:
        BuildError: when a length cannot be set, or reads back as something else.
    """
    nodes = [node for node in graph.model.graph if node.op_type == "Attention"]
    layers = list(attention_layers(trt, network))
    asked = [node for node in nodes if _lengths_of(node) is not None]
    if not asked:
        return
    if len(nodes) != len(layers):
        raise BuildError(
            f"TensorRT imported {len(layers)} attention layers of {len(nodes)} Attention nodes, so "
            "key lengths cannot be set; build without a key/value cache"
        )
    lengths: dict[str, Any] = {}
    for node, layer in zip(nodes, layers, strict=True):
        value = _lengths_of(node)
        if value is None:
            continue
        name = value.name or ""
        if name not in lengths:
            lengths[name] = _int32(trt, network, _find_tensor(network, name, node))
        _set(trt, node, layer, lengths[name])


def attention_layers(trt: Any, network: Any) -> Iterator[Any]:
    """Typed views of the layers that begin an attention, in the order of their nodes."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            # Layers come back as ILayer; the class gives the typed view of the same object.
            layer.__class__ = trt.IAttentionInputLayer
            yield layer


def decompose_unfusable(trt: Any, network: Any) -> tuple[Decomposed, ...]:
    """Let attention that no fused kernel takes be built from single kernels, and say why.

    Args:
        trt: the flavour's module.
        network: the parsed ``INetworkDefinition``.
    """
    decomposed = []
    for layer in attention_layers(trt, network):
        reason = _unfusable(trt, layer.get_input(0))
        if reason is not None:
            layer.attention.decomposable = True
            decomposed.append(Decomposed(node=onnx_name(layer), reason=reason))
    return tuple(decomposed)


def caches_of(graph: Graph) -> dict[str, str]:
    """Outputs that are inputs written in place, and those inputs: present -> past."""
    return {
        node.outputs[0].name or "": node.inputs[0].name or ""
        for node in graph.model.graph
        if node.op_type == "TensorScatter" and not node.domain and node.inputs[0] is not None
    }


def lost_attention(
    graph: Graph, listing: EngineListing, profiles: int, known: tuple[Decomposed, ...]
) -> tuple[Decomposed, ...]:
    """Attention nodes that are no fused kernel in some profile, those known included.

    Args:
        graph: what the engine was built from.
        listing: its kernels; a silent log tells nothing beyond what is known.
        profiles: number of optimisation profiles.
        known: nodes that were allowed to fall apart before the build.
    """
    if not listing.kernels:
        return known
    lost = dict.fromkeys(found.node for found in known)
    for profile in range(profiles):
        kernels = listing.of_profile(profile).kernels
        fused = {node for kernel in kernels if kernel.is_fused_attention for node in kernel.nodes}
        lost |= dict.fromkeys(
            node.name or "?"
            for node in graph.model.graph
            if node.op_type == "Attention" and node.name not in fused
        )
    reasons = {found.node: found.reason for found in known}
    chosen = "the builder chose no fused attention kernel for it"
    return tuple(Decomposed(node=node, reason=reasons.get(node, chosen)) for node in lost)


def onnx_name(layer: Any) -> str:
    """Name of the Attention node that a layer was imported from."""
    name: str = layer.name
    return name.removesuffix("_AttentionInput")


def _lengths_of(node: ir.Node) -> ir.Value | None:
    return node.inputs[_LENGTHS] if len(node.inputs) > _LENGTHS else None


def _find_tensor(network: Any, name: str, node: ir.Node) -> Any:
    for index in range(network.num_inputs):
        if network.get_input(index).name == name:
            return network.get_input(index)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for slot in range(layer.num_outputs):
            if layer.get_output(slot).name == name:
                return layer.get_output(slot)
    raise BuildError(
        f"Attention {node.name!r} has key lengths {name!r}, which TensorRT did not import; compute "
        "them from an input of the graph"
    )


def _int32(trt: Any, network: Any, tensor: Any) -> Any:
    return (
        tensor
        if tensor.dtype == trt.DataType.INT32
        else network.add_cast(tensor, trt.DataType.INT32).get_output(0)
    )


def _set(trt: Any, node: ir.Node, layer: Any, lengths: Any) -> None:
    where = f"Attention {node.name!r}"
    if onnx_name(layer) != node.name:
        raise BuildError(
            f"{where} was imported as {layer.name!r}; give every node a name of its own"
        )
    if not hasattr(trt, "CausalMaskKind"):
        raise BuildError(
            f"{where} reads a key/value cache, but TensorRT {trt.__version__} knows no key "
            "lengths; use TensorRT 11.4 or newer, or tensorrt-rtx"
        )
    causal = node.attributes.get("is_causal")
    is_causal = causal is not None and causal.as_int() == 1
    kind = trt.CausalMaskKind.LOWER_RIGHT if is_causal else trt.CausalMaskKind.NONE
    layer.attention.causal_kind = kind
    layer.attention.key_value_lengths = lengths
    held = layer.attention.key_value_lengths
    if held is None or held.name != lengths.name or layer.attention.causal_kind != kind:
        raise BuildError(
            f"{where} has key lengths {lengths.name!r} and the causal kind {kind}, but TensorRT "
            f"holds {None if held is None else held.name!r} and {layer.attention.causal_kind}; an "
            "engine of it would look at the wrong keys"
        )


def _unfusable(trt: Any, query: Any) -> str | None:
    if query.dtype == trt.DataType.FLOAT:
        return "fused attention exists for float16 and bfloat16, not for float32"
    head_dim, (smallest, largest) = tuple(query.shape)[-1], _FUSED_HEAD_DIMS
    if 0 < head_dim < smallest:
        return f"head size {head_dim} is below {smallest}, the smallest with a fused kernel"
    if head_dim > largest:
        return f"head size {head_dim} is above {largest}, the largest with a fused kernel"
    return None
