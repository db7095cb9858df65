from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.sampling import SHAPES, samples
from fuselage.graph.model import Graph


@pytest.fixture
def graph() -> Graph:
    text = """<ir_version: 10, opset_import: ["" : 23]>
    net (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask,
         bool[batch, sequence] key_mask, int64[batch, sequence] token_type_ids,
         float[batch, 3] scores, float[batch, 1, sequence, sequence] bias_mask,
         int64[batch, 4, rows, columns] grid)
        => (float[batch, sequence, 2] y)
    {
        small = Gather(few, input_ids)
        big = Gather(words, input_ids)
        flipped = Neg(input_ids)
        inner = Gather(tiny, flipped)
        picked = Gather(scores, input_ids)
        both0 = Equal(input_ids, limit)
        types = Gather(segments, token_type_ids)
        both = Add(big, small)
        y = Add(both, types)
    }"""
    tables = {"words": 50, "few": 20, "segments": 3}
    tensors = [ir.tensor(np.ones((n, 2), np.float32), name=name) for name, n in tables.items()]
    tensors.append(ir.tensor(np.ones((2, 2), np.float32), name="tiny"))
    tensors.append(ir.tensor(np.array([5]), name="limit"))
    return Graph(ir.from_onnx_text(text, tensors))


def test_the_shapes_cover_batch_one_sequence_one_and_odd_sizes(graph: Graph) -> None:
    made = list(samples(graph))
    assert [feeds["input_ids"].shape for feeds in made] == list(SHAPES)
    assert (1, 1) in SHAPES
    assert any(batch > 1 and sequence % 2 for batch, sequence in SHAPES)


def test_every_input_has_its_dtype_and_dims(graph: Graph) -> None:
    for feeds in samples(graph):
        batch, sequence = feeds["input_ids"].shape
        assert list(feeds) == [spec.name for spec in graph.inputs]
        for spec in graph.inputs:
            assert feeds[spec.name].dtype == np.dtype(spec.dtype)
        assert feeds["scores"].shape == (batch, 3)
        assert len(np.unique(feeds["scores"])) == feeds["scores"].size  # drawn, not 0 and 1
        assert feeds["bias_mask"].shape == (batch, 1, sequence, sequence)
        assert feeds["grid"].shape == (batch, 4, batch, sequence)


def test_ids_stay_inside_the_smallest_table_they_index(graph: Graph) -> None:
    drawn = np.concatenate([feeds["input_ids"].ravel() for feeds in samples(graph)])
    assert drawn.min() >= 0
    assert 10 < drawn.max() < 20
    types = np.concatenate([feeds["token_type_ids"].ravel() for feeds in samples(graph)])
    assert set(types) == {0, 1, 2}


def test_masks_pad_on_the_right_and_never_a_whole_row(graph: Graph) -> None:
    lengths: set[int] = set()
    for feeds in samples(graph):
        for name in ("attention_mask", "key_mask"):
            mask = feeds[name].astype(np.int64)
            assert (mask[:, 0] == 1).all()
            assert (np.diff(mask, axis=1) <= 0).all()
        assert feeds["attention_mask"][0].all()  # one row is full
        np.testing.assert_array_equal(feeds["attention_mask"], feeds["key_mask"])
        if feeds["input_ids"].shape == SHAPES[0]:
            lengths = set(feeds["attention_mask"].sum(axis=1).tolist())
    assert len(lengths) > 1


def test_a_seed_gives_one_set_of_feeds(graph: Graph) -> None:
    first, again, other = (list(samples(graph, seed)) for seed in (0, 0, 1))
    for one, two in zip(first, again, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
    assert any(
        not np.array_equal(one["scores"], two["scores"])
        for one, two in zip(first, other, strict=True)
    )
