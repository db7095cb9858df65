"""The canonical chain says what it means when run, and is read back to the last operand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.masks.fill import mask_fill
from fuselage.passes.masks.meaning import Mask
from fuselage.passes.masks.read import attention_mask, meaning_of, read_mask
from fuselage.passes.masks.write import Lengths, write_mask

MEANINGS: dict[str, dict[str, Any]] = {
    "padding": {"padding": True},
    "padding of both": {"padding": True, "pads_queries": True},
    "causal": {"ahead": 0},
    "padding, causal": {"padding": True, "ahead": 0},
    "padding, causal window": {"padding": True, "ahead": 0, "back": 2},
    "padding, window": {"padding": True, "ahead": 1, "back": 1},
    "window": {"ahead": 2, "back": 1},
}
NET = "net (int64[b, s] ids, int64[b, t] padding) => (int64[b, s] z) { z = Neg(ids) }"


def chain_of(
    parse: Any, name: str, *, square: bool, dtype: ir.DataType = ir.DataType.FLOAT
) -> tuple[ir.Model, ir.Value, Mask]:
    model = parse(NET)
    ids, padding = model.graph.inputs
    meaning = dict(MEANINGS[name])
    if meaning.pop("padding", False):
        meaning["padding"] = padding
    mask = Mask(**meaning)
    keys = ((padding, 1),)
    lengths = Lengths(keys, keys) if square else Lengths(((ids, 1),), keys)
    tape = ir.tape.Tape()
    value = write_mask(model.graph, tape, mask, lengths, dtype)
    value.name = "mask"
    model.graph.insert_before(model.graph[0], tape.nodes)
    model.graph.outputs.append(value)
    return model, value, mask


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("name", MEANINGS)
def test_what_is_written_is_read_and_means_the_same(
    parse: Any, run: Any, rng: Any, name: str, square: bool
) -> None:
    if name == "padding of both" and not square:
        pytest.skip("queries and keys are the same tokens")
    model, value, mask = chain_of(parse, name, square=square)
    assert meaning_of(value) == mask
    for batch, queries, keys in ((1, 1, 1), (3, 4, 4), (2, 2, 7), (2, 1, 5)):
        if square and queries != keys:
            continue
        padding = rng.integers(0, 2, (batch, keys))
        got = run(model, {"ids": np.zeros((batch, queries), np.int64), "padding": padding})["mask"]
        wanted = np.where(mask.keeps(padding, queries), 0, np.float32(mask_fill(ir.DataType.FLOAT)))
        assert got.shape == (batch if mask.padding is not None else 1, 1, queries, keys)
        np.testing.assert_array_equal(np.broadcast_to(got, wanted.shape), wanted)


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_the_type_and_dims_are_stated(parse: Any, dtype: ir.DataType) -> None:
    _, value, mask = chain_of(parse, "padding, causal", square=False, dtype=dtype)
    assert (value.dtype, str(value.shape)) == (dtype, "[b,1,s,t]")
    assert meaning_of(value) == mask
    _, value, _ = chain_of(parse, "causal", square=True, dtype=dtype)
    assert str(value.shape) == "[1,1,t,t]"


def test_keys_may_be_a_sum(parse: Any, run: Any) -> None:
    model = parse(
        """net (int64[b, s] ids, float[b, 2, p, 8] past) => (int64[b, s] z) { z = Neg(ids) }"""
    )
    ids, past = model.graph.inputs
    tape = ir.tape.Tape()
    lengths = Lengths(((ids, 1),), ((past, 2), (ids, 1)))
    value = write_mask(model.graph, tape, Mask(ahead=0), lengths, ir.DataType.FLOAT)
    value.name = "mask"
    model.graph.insert_before(model.graph[0], tape.nodes)
    model.graph.outputs.append(value)
    assert meaning_of(value) == Mask(ahead=0)
    for before in (0, 3):
        feeds = {
            "ids": np.zeros((2, 4), np.int64),
            "past": np.zeros((2, 2, before, 8), np.float32),
        }
        wanted = Mask(ahead=0).keeps(np.ones((1, before + 4), np.int64), 4)
        np.testing.assert_array_equal(run(model, feeds)["mask"] == 0, wanted)


CONSTANTS = {
    "zero": np.float32(0),
    "one_f": np.float32(1),
    "fill": np.float32(-1e38),
    "weak": np.float32(-9999),
    "lowest": np.finfo(np.float32).min,
    "infinite": np.float32(-np.inf),
    "row": np.zeros((1, 1, 1, 2), np.float32),
    "axes12": np.array([1, 2]),
    "axes13": np.array([1, 3]),
    "a0": np.array([0]),
    "a1": np.array([1]),
    "ones": np.array([1, 1]),
    "twos": np.array([1, 2]),
    "one": np.array([1]),
    "two": np.array([2]),
    "minus_one": np.array([-1]),
    "i0": np.int64(0),
    "i1": np.int64(1),
    "i2": np.int64(2),
    "fixed": np.array([1, 1, 7, 1]),
}
HEAD = """net (int64[b, s] padding, int64[b, s] ids, int64[b, t] other, float[b, s] number)
    => (float[b, h, q, k] mask)"""
PADDED = {
    "keep": "Cast<to = 9>(padding)",
    "keep4": "Unsqueeze(keep, axes12)",
    "bias": "Where(keep4, zero, fill)",
    "length": "Shape<start = 1, end = 2>(padding)",
    "target": "Concat<axis = 0>(ones, length, one)",
    "mask": "Expand(bias, target)",
}
CAUSAL = {
    "keep": "Cast<to = 9>(padding)",
    "keep4": "Unsqueeze(keep, axes12)",
    "long": "Shape<start = 1, end = 2>(padding)",
    "total": "Squeeze(long, a0)",
    "short": "Shape<start = 1, end = 2>(ids)",
    "count": "Squeeze(short, a0)",
    "keys": "Range(i0, total, i1)",
    "past": "Sub(total, count)",
    "last": "Range(past, total, i1)",
    "queries": "Unsqueeze(last, a1)",
    "far": "Sub(queries, i2)",
    "reach": "GreaterOrEqual(keys, far)",
    "near": "LessOrEqual(keys, queries)",
    "band": "And(reach, near)",
    "both": "And(keep4, band)",
    "mask": "Where(both, zero, fill)",
}


def value_of(parse: Any, chain: dict[str, str], before: str = "", **changed: str) -> ir.Value:
    lines = [f"{name} = {body}" for name, body in (chain | changed).items()]
    text = "\n".join((before, *lines))
    model: ir.Model = parse(f"{HEAD} {{ {text} }}", **CONSTANTS)
    return model.graph.outputs[0]


def test_the_chains_of_this_file_are_canonical(parse: Any) -> None:
    assert str(meaning_of(value_of(parse, PADDED))) == "padding by padding"
    causal = str(meaning_of(value_of(parse, CAUSAL)))
    assert causal == "padding by padding, causal, at most 2 back"


def test_sizes_may_be_computed_in_any_way(parse: Any) -> None:
    chain = {name: CAUSAL[name] for name in ("long", "short")} | {"minus": "Mul(short, minus_one)"}
    chain |= {"tail": "Add(long, minus)"} | CAUSAL
    causal = value_of(parse, chain, past="Squeeze(tail, a0)")
    assert str(meaning_of(causal)) == "padding by padding, causal, at most 2 back"


def test_sizes_may_come_from_any_input(parse: Any) -> None:
    other = value_of(parse, PADDED, length="Shape<start = 1, end = 2>(other)")
    assert str(meaning_of(other)) == "padding by padding"


PADDED_LOOKALIKES: dict[str, dict[str, str]] = {
    "padding of the queries": {"keep4": "Unsqueeze(keep, axes13)"},
    "kept keys are shifted": {"bias": "Where(keep4, one_f, fill)"},
    "kept keys have no constant": {"bias": "Where(keep4, row, fill)"},
    "the fill is too weak": {"bias": "Where(keep4, zero, weak)"},
    "the fill is positive": {"bias": "Where(keep4, zero, one_f)"},
    "the fill is infinite": {"bias": "Where(keep4, zero, infinite)"},
    "the fill is the lowest": {"bias": "Where(keep4, zero, lowest)"},
    "the fill is no scalar": {"bias": "Where(keep4, zero, row)"},
    "the fill is first": {"bias": "Where(keep4, fill, zero)"},
    "the batch": {"length": "Shape<start = 0, end = 1>(padding)"},
    "all sizes": {"length": "Shape<start = 1>(padding)", "target": "Concat<axis=0>(ones, length)"},
    "two sizes": {"length": "Shape(padding)"},
    "a constant target": {"target": "Identity(fixed)"},
    "another head size": {"target": "Concat<axis = 0>(twos, length, one)"},
    "another key size": {"target": "Concat<axis = 0>(ones, length, two)"},
    "no expansion": {"mask": "Identity(bias)"},
    "no choice": {"bias": "Cast<to = 1>(keep4)"},
    "a comparison": {"keep": "Equal(padding, i1)"},
    "no new axes": {"keep4": "Not(keep)"},
}
CAUSAL_LOOKALIKES: dict[str, dict[str, str]] = {
    "strictly before": {"near": "Less(keys, queries)"},
    "queries and keys exchanged": {"near": "LessOrEqual(queries, keys)"},
    "keys from 1": {"keys": "Range(i1, total, i1)"},
    "every other key": {"keys": "Range(i0, total, i2)"},
    "every other query": {"last": "Range(past, total, i2)"},
    "the first queries": {"last": "Range(i0, count, i1)"},
    "queries that end before the keys": {"last": "Range(past, count, i1)"},
    "a limit that is computed": {"far": "Sub(queries, count)"},
    "queries as a row": {"queries": "Unsqueeze(last, a0)"},
    "or": {"band": "Or(reach, near)"},
    "expanded besides": {"wide": "Where(both, zero, fill)", "mask": "Expand(wide, fixed)"},
}


@pytest.mark.parametrize("name", PADDED_LOOKALIKES)
def test_lookalikes_of_padding_are_not_taken_for_it(parse: Any, name: str) -> None:
    assert meaning_of(value_of(parse, PADDED, **PADDED_LOOKALIKES[name])) is None


@pytest.mark.parametrize("name", CAUSAL_LOOKALIKES)
def test_lookalikes_of_a_band_are_not_taken_for_it(parse: Any, name: str) -> None:
    chain = dict(CAUSAL)
    changed = CAUSAL_LOOKALIKES[name]
    if "wide" in changed:
        del chain["mask"]
    assert meaning_of(value_of(parse, chain, **changed)) is None


def test_two_padding_inputs_are_no_one_mask(parse: Any) -> None:
    second = "other9 = Cast<to = 9>(ids)\n other4 = Unsqueeze(other9, axes12)"
    mask = value_of(parse, CAUSAL, second, band="And(near, other4)")
    assert meaning_of(mask) is None


def test_an_inner_tensor_is_no_padding_input(parse: Any) -> None:
    assert (
        meaning_of(value_of(parse, PADDED, "inner = Neg(padding)", keep="Cast<to=9>(inner)"))
        is None
    )


def test_an_input_is_no_chain(parse: Any) -> None:
    model = parse("net (float[b, 1, s, s] mask) => (float[b, 1, s, s] y) { y = Neg(mask) }")
    assert read_mask(model.graph.inputs[0]) is None


ATTENTION = """net (int64[b, s] padding, float[1, 2, s, s] slope, float[b, s, 16] q)
    => (float[b, s, 16] y)
    {{ {body}
       y = Attention<q_num_heads = 2, kv_num_heads = 2, is_causal = {causal}>(q, q, q {mask}) }}"""
CHAIN = "\n".join(f"{name} = {body}" for name, body in PADDED.items())


@pytest.mark.parametrize(
    ("body", "mask", "causal", "wanted"),
    [
        ("", "", 0, "no mask"),
        ("", "", 1, "causal"),
        (CHAIN, ", mask", 0, "padding by padding"),
        (CHAIN + "\n sum = Add(mask, slope)", ", sum", 0, "padding by padding + slope"),
        (CHAIN + "\n sum = Add(slope, mask)", ", sum", 0, "padding by padding + slope"),
        (CHAIN, ", mask", 1, None),  # what both say together is not spelled out
        (CHAIN, ", slope", 0, None),
        (CHAIN + "\n sum = Add(slope, slope)", ", sum", 0, None),
    ],
)
def test_the_mask_of_an_attention(
    parse: Any, body: str, mask: str, causal: int, wanted: str | None
) -> None:
    model = parse(ATTENTION.format(body=body, mask=mask, causal=causal), **CONSTANTS)
    found = attention_mask(model.graph[-1])
    if wanted is None:
        assert found is None
        return
    assert found is not None
    bias = "" if found.bias is None else f" + {found.bias.name}"
    assert f"{found.meaning}{bias}" == wanted


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_the_fill_is_low_finite_and_not_the_lowest(dtype: ir.DataType) -> None:
    fill = np.array(mask_fill(dtype)).astype(dtype.numpy()).astype(np.float64)
    lowest = float(dtype.min)
    assert np.isfinite(fill)
    assert lowest < fill < 0.85 * lowest
    assert np.isfinite((fill + 0.05 * lowest).astype(dtype.numpy()).astype(np.float64))
