"""Damage a model as accidents, converters and attackers do: at bytes, and at structure.

Every mutation is a function of a ModelProto (or of bytes) and a random generator and changes the
model in place. None of them knows which models are still valid; that is the judge's business.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

Mutation = Callable[[ModelProto, random.Random], None]

_OPS = (
    "Add", "Mul", "Sub", "Div", "MatMul", "Gemm", "Relu", "Identity", "Reshape", "Transpose",
    "Concat", "Slice", "Gather", "Softmax", "Shape", "Cast", "Expand", "Unsqueeze", "Squeeze",
    "Where", "Split", "Erf", "Tanh", "Sqrt", "Pow", "ReduceMean", "ReduceSum", "Constant",
    "ConstantOfShape", "Range", "Tile", "NonZero", "Loop", "If", "Scan", "LayerNormalization",
    "Gelu", "Attention", "TopK", "RMSNormalization", "RotaryEmbedding", "QuantizeLinear",
    "DequantizeLinear", "Resize", "Conv", "MaxPool", "CumSum", "GatherND", "ScatterND", "OneHot",
    "Pad", "Size", "Trilu", "Einsum", "SequenceAt", "Dropout", "BatchNormalization", "CastLike",
    "RandomNormalLike", "Compress", "DepthToSpace", "GatherElements", "NoSuchOperator",
)  # fmt: skip
_ATTRIBUTES = (
    "axis", "axes", "perm", "to", "alpha", "keepdims", "epsilon", "scale", "is_causal",
    "q_num_heads",
)  # fmt: skip
_DOMAINS = (
    "",
    "ai.onnx",
    "com.microsoft",
    "own",
    "ai.onnx.ml",
    "pkg.onnxscript",
    "\x00",
    "x" * 300,
)
_OPSETS = (-1, 0, 1, 6, 7, 9, 11, 13, 14, 17, 18, 20, 22, 23, 24, 25, 26, 99, 2**40)
_SIZES = (-(2**63), -7, -1, 0, 1, 2, 3, 8, 255, 2**31, 2**40, 2**62, 2**63 - 1)
_REALS = (0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e-30, 3e38)
_NAMES = ("", " ", "x", "a/b", "é", "y" * 2000, "../up", "\n", "[red]")


def _values(graph: onnx.GraphProto) -> list[str]:
    names = [info.name for info in (*graph.input, *graph.output)]
    names += [tensor.name for tensor in graph.initializer]
    return names + [name for node in graph.node for name in node.output]


def _node(model: ModelProto, rng: random.Random) -> NodeProto:
    graph = _graph(model, rng)
    return rng.choice(graph.node)


def _graph(model: ModelProto, rng: random.Random) -> onnx.GraphProto:
    """The main graph, sometimes one inside it."""
    inner = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    return rng.choice(inner) if inner and rng.random() < 0.5 else model.graph


def _index(items: object, rng: random.Random) -> int:
    return rng.randrange(len(items))  # type: ignore[arg-type]


def _drop_node(model: ModelProto, rng: random.Random) -> None:
    graph = _graph(model, rng)
    del graph.node[_index(graph.node, rng)]


def _duplicate_node(model: ModelProto, rng: random.Random) -> None:
    graph = _graph(model, rng)
    copy = NodeProto()
    copy.CopyFrom(rng.choice(graph.node))
    if rng.random() < 0.7:
        copy.output[:] = [f"{name}_copy" for name in copy.output]
    graph.node.insert(_index(graph.node, rng), copy)


def _rewire(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    node.input[_index(node.input, rng)] = rng.choice(_values(model.graph))


def _swap_inputs(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    names = list(node.input)
    rng.shuffle(names)
    node.input[:] = names


def _resize_inputs(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    match rng.randrange(4):
        case 0:
            node.input[_index(node.input, rng)] = ""
        case 1:
            del node.input[_index(node.input, rng) :]
        case 2:
            node.input.append(rng.choice(_values(model.graph)))
        case _:
            node.output.append(rng.choice((*_NAMES, "extra")))


def _drop_outputs(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if rng.random() < 0.5:
        node.output[_index(node.output, rng)] = ""
    else:
        del node.output[_index(node.output, rng) :]


def _change_operator(model: ModelProto, rng: random.Random) -> None:
    _node(model, rng).op_type = rng.choice((*_OPS, *(node.op_type for node in model.graph.node)))


def _change_domain(model: ModelProto, rng: random.Random) -> None:
    _node(model, rng).domain = rng.choice(_DOMAINS)


def _change_attribute(model: ModelProto, rng: random.Random) -> None:
    nodes = [node for node in _graph(model, rng).node if node.attribute]
    attribute = rng.choice(rng.choice(nodes).attribute)
    match rng.randrange(6):
        case 0:
            attribute.name = rng.choice(("axis", "perm", "to", "value", "epsilon", *_NAMES))
        case 1:
            attribute.type = rng.randrange(16)
        case 2:
            attribute.i = rng.choice(_SIZES)
        case 3:
            attribute.f = rng.choice(_REALS)
        case 4:
            attribute.ints[:] = [rng.choice(_SIZES) for _ in range(rng.randrange(5))]
        case _:
            attribute.ref_attr_name = "nothing"


def _add_attribute(model: ModelProto, rng: random.Random) -> None:
    name = rng.choice(_ATTRIBUTES)
    node = _node(model, rng)
    if rng.random() < 0.6:
        node.attribute.append(
            AttributeProto(name=name, type=AttributeProto.INT, i=rng.choice(_SIZES))
        )
    else:
        node.attribute.append(
            AttributeProto(name=name, type=AttributeProto.FLOAT, f=rng.choice(_REALS))
        )


def _drop_attribute(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice([node for node in _graph(model, rng).node if node.attribute])
    del node.attribute[_index(node.attribute, rng)]


def _change_type(model: ModelProto, rng: random.Random) -> None:
    graph = _graph(model, rng)
    info = rng.choice((*graph.input, *graph.output, *graph.value_info))
    match rng.randrange(4):
        case 0:
            info.type.Clear()
        case 1:
            info.type.tensor_type.ClearField("shape")
        case 2:
            info.type.sequence_type.elem_type.tensor_type.elem_type = rng.randrange(28)
        case _:
            info.type.tensor_type.elem_type = rng.randrange(28)


def _change_dims(model: ModelProto, rng: random.Random) -> None:
    graph = _graph(model, rng)
    info = rng.choice((*graph.input, *graph.output, *graph.value_info))
    dims = info.type.tensor_type.shape.dim
    match rng.randrange(5):
        case 0:
            dims.add().dim_value = rng.choice(_SIZES)
        case 1:
            del dims[_index(dims, rng)]
        case 2:
            dims[_index(dims, rng)].Clear()
        case 3:
            dims[_index(dims, rng)].dim_param = rng.choice(("batch", "sequence", *_NAMES))
        case _:
            dims[_index(dims, rng)].dim_value = rng.choice(_SIZES)


def _change_opset(model: ModelProto, rng: random.Random) -> None:
    match rng.randrange(4):
        case 0:
            del model.opset_import[_index(model.opset_import, rng)]
        case 1:
            model.opset_import.add(domain=rng.choice(_DOMAINS), version=rng.choice(_OPSETS))
        case _:
            rng.choice(model.opset_import).version = rng.choice(_OPSETS)


def _change_ir_version(model: ModelProto, rng: random.Random) -> None:
    model.ir_version = rng.choice((-1, 0, 1, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14, 99, 2**40))


def _drop_initializer(model: ModelProto, rng: random.Random) -> None:
    graph = model.graph
    del graph.initializer[_index(graph.initializer, rng)]


def _duplicate_initializer(model: ModelProto, rng: random.Random) -> None:
    graph = model.graph
    copy = TensorProto()
    copy.CopyFrom(rng.choice(graph.initializer))
    if rng.random() < 0.5:
        copy.name = rng.choice(_values(graph))
    graph.initializer.append(copy)


def _change_initializer(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    match rng.randrange(7):
        case 0:
            tensor.data_type = rng.randrange(28)
        case 1:
            tensor.dims[:] = [rng.choice(_SIZES) for _ in range(rng.randrange(4))]
        case 2:
            tensor.dims[_index(tensor.dims, rng)] += rng.choice((-1, 1))
        case 3:
            tensor.ClearField("raw_data")
        case 4:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        case 5:
            tensor.float_data.append(1.0)
        case _:
            tensor.name = rng.choice(_NAMES)


def _change_value(model: ModelProto, rng: random.Random) -> None:
    """Other numbers of the same dtype and shape: a valid file with odd constants."""
    tensor = rng.choice(model.graph.initializer)
    array = onnx.numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    pool = _SIZES if array.dtype.kind in "iu" else _REALS
    with np.errstate(all="ignore"):
        value = np.asarray(rng.choice(pool)).astype(array.dtype)
        flat[_index(flat, rng) if rng.random() < 0.5 else slice(None)] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _cast_initializer(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    dtype = rng.choice(("float16", "float64", "int32", "int64", "bool", "float32"))
    array = onnx.numpy_helper.to_array(tensor)
    with np.errstate(all="ignore"):
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(dtype), tensor.name))


def _externalise(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    place = rng.choice(("no.bin", "/etc/passwd", "../in.onnx", "in.onnx", "", ".", "a/../b"))
    for key, value in (("location", place), ("offset", rng.choice(("0", "-1", "x", "9" * 30)))):
        tensor.external_data.add(key=key, value=value)


def _sparsify(model: ModelProto, rng: random.Random) -> None:
    """Move an initializer to sparse_initializer, sound or with indices out of bounds."""
    graph = model.graph
    at = _index(graph.initializer, rng)
    tensor = graph.initializer[at]
    array = onnx.numpy_helper.to_array(tensor)
    places = np.flatnonzero(array)
    if rng.random() < 0.3:
        places = places + 1000
    sparse = graph.sparse_initializer.add(dims=tensor.dims)
    values = array.reshape(-1)[np.flatnonzero(array)]
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(places.astype(np.int64)))
    del graph.initializer[at]


def _rename(model: ModelProto, rng: random.Random) -> None:
    """Rename a value in one of the places that name it."""
    node = _node(model, rng)
    names = node.input if rng.random() < 0.5 else node.output
    names[_index(names, rng)] = rng.choice((*_NAMES, *_values(model.graph)))


def _rename_node(model: ModelProto, rng: random.Random) -> None:
    for node in _graph(model, rng).node:
        node.name = rng.choice(("", "same", "[/bold]", node.op_type))


def _rename_interface(model: ModelProto, rng: random.Random) -> None:
    graph = _graph(model, rng)
    rng.choice((*graph.input, *graph.output)).name = rng.choice((*_NAMES, *_values(graph)))


def _add_output(model: ModelProto, rng: random.Random) -> None:
    name = rng.choice(_values(model.graph))
    if rng.random() < 0.5:
        model.graph.output.add(name=name)
    else:
        model.graph.output.add().CopyFrom(rng.choice((*model.graph.output, *model.graph.input)))
        model.graph.output[-1].name = name


def _drop_interface(model: ModelProto, rng: random.Random) -> None:
    items = rng.choice((model.graph.input, model.graph.output))
    del items[_index(items, rng)]


def _list_initializers(model: ModelProto, rng: random.Random) -> None:
    """As IR version 3 wants it: weights are inputs too."""
    if rng.random() < 0.7:
        model.ir_version = 3
    for tensor in model.graph.initializer:
        info = model.graph.input.add(name=tensor.name)
        info.type.tensor_type.elem_type = tensor.data_type
        for size in tensor.dims:
            info.type.tensor_type.shape.dim.add().dim_value = size


def _reorder(model: ModelProto, rng: random.Random) -> None:
    graph = _graph(model, rng)
    one, two = _index(graph.node, rng), _index(graph.node, rng)
    first, second = NodeProto(), NodeProto()
    first.CopyFrom(graph.node[one])
    second.CopyFrom(graph.node[two])
    graph.node[one].CopyFrom(second)
    graph.node[two].CopyFrom(first)


def _make_cycle(model: ModelProto, rng: random.Random) -> None:
    graph = _graph(model, rng)
    late = rng.randrange(len(graph.node) // 2, len(graph.node))
    early = graph.node[rng.randrange(late + 1)]
    early.input[_index(early.input, rng)] = rng.choice(graph.node[late].output)


def _wrap_in_if(model: ModelProto, rng: random.Random) -> None:
    """Move a node into both branches of an If with a constant condition."""
    graph = model.graph
    at = _index(graph.node, rng)
    node = NodeProto()
    node.CopyFrom(graph.node[at])
    graph.node[at].Clear()
    outer = graph.node[at]
    outer.op_type, outer.name = "If", f"if_{node.name}"
    outer.input.append("if_condition")
    outer.output.extend(node.output)
    for branch in ("then_branch", "else_branch"):
        attribute = outer.attribute.add(name=branch, type=AttributeProto.GRAPH)
        inner = attribute.g.node.add()
        inner.CopyFrom(node)
        inner.output[:] = [f"{name}_{branch}" for name in node.output]
        attribute.g.name = branch
        for name in inner.output:
            attribute.g.output.add(name=name).type.tensor_type.elem_type = 1
    graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(True), "if_condition"))


def _add_function(model: ModelProto, rng: random.Random) -> None:
    """A function for an operator in use, sometimes one that calls itself."""
    node = _node(model, rng)
    node.domain = "own"
    function = model.functions.add(name=node.op_type, domain="own")
    function.input.extend(f"i{at}" for at in range(len(node.input)))
    function.output.extend(f"o{at}" for at in range(len(node.output)))
    function.opset_import.add(domain="", version=rng.choice((13, 18, 20, 23)))
    inner = function.node.add()
    inner.CopyFrom(node)
    inner.domain = rng.choice(("", "", "own"))
    inner.input[:] = list(function.input)
    inner.output[:] = list(function.output)
    if not any(entry.domain == "own" for entry in model.opset_import):
        model.opset_import.add(domain="own", version=1)


def _swell_metadata(model: ModelProto, rng: random.Random) -> None:
    model.metadata_props.add(key=rng.choice(_NAMES), value="m" * rng.choice((0, 10, 2_000_000)))
    model.doc_string = "d" * 100_000


STRUCTURAL: tuple[Mutation, ...] = (
    _drop_node, _duplicate_node, _rewire, _rewire, _swap_inputs, _resize_inputs, _drop_outputs,
    _change_operator, _change_operator, _change_domain, _change_attribute, _change_attribute,
    _add_attribute, _drop_attribute, _change_type, _change_dims, _change_opset,
    _change_ir_version, _drop_initializer, _duplicate_initializer, _change_initializer,
    _change_initializer, _change_value, _change_value, _change_value, _cast_initializer,
    _externalise, _sparsify, _rename, _rename_node, _rename_interface, _add_output,
    _drop_interface, _list_initializers, _reorder, _make_cycle, _wrap_in_if, _add_function,
    _swell_metadata,
)  # fmt: skip


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, overwrite or truncate somewhere."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not content:
            break
        at = rng.randrange(len(content))
        length = rng.choice((1, 1, 2, 4, 16, 200))
        match rng.randrange(7):
            case 0:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                content[at : at + length] = b""
            case 2:
                content[at:at] = content[at : at + length]
            case 3:
                content[at : at + length] = rng.randbytes(length)
            case 4:
                content[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 5:
                content[at:at] = b"\xff" * length
            case _:
                if rng.random() < 0.3:
                    del content[at:]
    return bytes(content)


def mutate(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One mutated file: what was done, and its bytes. Deterministic in the generator's state."""
    if rng.random() < 0.25:
        return "bytes", mutate_bytes(data, rng)
    model = onnx.load_from_string(data)
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        step = rng.choice(STRUCTURAL)
        try:
            step(model, rng)
        except (IndexError, ValueError, TypeError, OverflowError, RuntimeError, MemoryError):
            continue  # nothing here that this mutation could damage
        done.append(step.__name__.lstrip("_"))
    try:
        return "+".join(done) or "none", model.SerializeToString()
    except ValueError:
        return "unserialisable", data
