"""Every text in one row, no row overfull, order restored; the cost line and its choices."""

from __future__ import annotations

import time

import numpy as np
import pytest

from fuselage.engines.base import Engine
from fuselage.engines.text.batching import BatchLimits, batches
from fuselage.engines.text.packed_engine import PackedEngine, is_packed, opened
from fuselage.engines.text.packing import PackedCall, RowLimits, packed_calls
from fuselage.engines.text.row_cost import RowCost, cheapest, measure
from fuselage.errors import FeedError
from fuselage.graph.tensors import Array, Feeds, ShapeProfile, TensorSpec

LIMITS = RowLimits(max_tokens=256)


def check(calls: list[PackedCall], lengths: Array, limits: RowLimits) -> None:
    texts = np.concatenate([call.texts for call in calls])
    assert sorted(texts.tolist()) == list(range(lengths.size))
    for call in calls:
        taken = np.zeros((call.height, call.length), np.intp)
        for text, row, start in zip(call.texts, call.rows, call.starts, strict=True):
            assert start + lengths[text] <= call.length
            taken[row, start : start + lengths[text]] += 1
        assert taken.max() == 1
        assert taken.any(axis=1).all()
        assert call.height == 1 or call.tokens <= limits.max_tokens
        assert call.height <= limits.max_rows
        assert call.width <= limits.max_slots


@pytest.mark.parametrize("row_length", [0, 16, 64, 100])
def test_every_text_once_and_no_row_overfull(row_length: int) -> None:
    random = np.random.default_rng(row_length)
    for round_ in range(40):
        lengths = random.integers(1, 70, random.integers(1, 60))
        limits = RowLimits(max_tokens=256, max_rows=5, max_slots=6) if round_ % 2 else LIMITS
        check(packed_calls(lengths, row_length, limits), lengths, limits)


def test_rows_are_full_and_the_last_are_short() -> None:
    (call,) = packed_calls(np.array([60, 40, 30, 30, 20, 20]), 100, RowLimits(max_tokens=400))
    assert (call.height, call.length) == (2, 100)
    (call,) = packed_calls(np.array([30, 30, 20, 20]), 100, RowLimits(max_tokens=400))
    assert (call.height, call.length) == (1, 100)
    (call,) = packed_calls(np.array([50, 40, 40]), 100, RowLimits(max_tokens=400))
    assert (call.height, call.length) == (2, 80)


def test_a_hundred_thousand_texts_take_seconds_and_little_padding() -> None:
    random = np.random.default_rng(0)
    lengths = np.clip(np.rint(random.lognormal(np.log(32), 0.8, 100_000)), 5, 256).astype(int)
    start = time.process_time()
    calls = packed_calls(lengths, 128, RowLimits(max_tokens=512))
    assert time.process_time() - start < 5
    assert sum(call.tokens for call in calls) < 1.01 * lengths.sum()


def test_the_line_is_found_again() -> None:
    truth = RowCost(call=2e-3, token=1e-4, pair=5e-8)
    sizes = [(1, 32), (1, 128), (4, 64), (4, 128), (2, 256)]
    found = RowCost.fitted(sizes, [truth.of(*size) for size in sizes])
    assert found.to_json() == pytest.approx(truth.to_json(), rel=1e-6)
    assert RowCost.from_json(found.to_json()) == found
    assert RowCost.from_json({"call": 1, "token": -1, "pair": 0}) is None
    flat = RowCost.fitted(sizes, [1.0, 0.9, 0.8, 0.7, 0.6])
    assert min(flat.to_json().values()) == 0


def test_the_least_time_of_each_size_counts() -> None:
    truth = RowCost(call=1, token=0.1, pair=0.01)
    sizes = [(1, 2), (1, 8), (4, 4)]
    now, calls = [0.0], 0

    def run(height: int, length: int) -> None:
        nonlocal calls
        slow = 1 if calls // len(sizes) == 3 else 2  # one round of six is undisturbed
        now[0] += slow * truth.of(height, length)
        calls += 1

    assert measure(run, sizes, lambda: now[0]).to_json() == pytest.approx(truth.to_json())
    assert calls == 18


def test_rows_are_shared_where_calls_are_dear_and_not_where_pairs_are() -> None:
    lengths = np.array([50, 20, 20, 10, 10, 10, 8])
    dear_calls = cheapest(lengths, LIMITS, RowCost(call=1, token=1e-4, pair=0))
    assert dear_calls.row_length > 0
    dear_pairs = cheapest(lengths, LIMITS, RowCost(call=0, token=0, pair=1))
    assert dear_pairs.row_length == 0


class Rows(Engine):
    """Answers the sum of each text and every token's id, by the packed inputs."""

    target = "ort-cpu"
    inputs = (
        TensorSpec("input_ids", "int64", ("rows", "length")),
        TensorSpec("segment_ids", "int64", ("rows", "length")),
        TensorSpec("position_ids", "int64", ("rows", "length")),
        TensorSpec("slots", "int64", ("slots",)),
    )
    outputs = (
        TensorSpec("sums", "float32", ("texts", 1)),
        TensorSpec("tokens", "float32", ("rows", "length", 2)),
    )

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, feeds: Feeds) -> dict[str, Array]:
        ids, segments = feeds["input_ids"], feeds["segment_ids"]
        self.shapes.append(ids.shape)
        member = segments[:, None, :] == feeds["slots"][None, :, None]
        sums = (member * ids[:, None, :]).sum(-1).reshape(-1, 1)
        tokens = np.stack([ids, feeds["position_ids"]], -1)
        return {"sums": sums.astype(np.float32), "tokens": tokens.astype(np.float32)}

    def close(self) -> None:
        pass


def padded(lengths: list[int], *, left: bool = False) -> dict[str, Array]:
    width = max(lengths)
    columns = np.arange(width)
    sizes = np.array(lengths)[:, None]
    mask = columns >= width - sizes if left else columns < sizes
    ids = np.arange(1, mask.size + 1).reshape(mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64)}


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("row_length", [None, 0, 64])
def test_answers_come_back_to_their_texts(row_length: int | None, left: bool) -> None:
    engine = opened(Rows())
    assert isinstance(engine, PackedEngine)
    assert not is_packed(engine)
    assert [str(spec) for spec in engine.outputs] == [
        "sums: float32[batch, 1]",
        "tokens: float32[batch, sequence, 2]",
    ]
    engine.fixed_row = row_length
    feeds = padded([7, 0, 60, 3, 3, 25, 1], left=left)
    answers = engine.run(feeds)
    np.testing.assert_array_equal(answers["sums"][:, 0], feeds["input_ids"].sum(1))
    np.testing.assert_array_equal(answers["tokens"][..., 0], feeds["input_ids"])
    positions = answers["tokens"][..., 1][feeds["attention_mask"] == 1]
    np.testing.assert_array_equal(
        positions, np.concatenate([np.arange(n) for n in (7, 60, 3, 3, 25, 1)])
    )


def test_the_runtime_batches_as_the_engine_packs_and_it_says_so() -> None:
    rows = Rows()
    engine = PackedEngine(rows, RowCost(call=1, token=1e-4, pair=0))
    lengths = np.random.default_rng(0).integers(1, 50, 200)
    groups = batches(lengths, None, BatchLimits(planner=engine.groups))  # type: ignore[arg-type]
    assert sorted(np.concatenate(groups).tolist()) == list(range(200))
    for group in groups:
        engine.run(padded(lengths[group].tolist()))
    assert len(rows.shapes) == len(groups)
    assert "texts share rows of" in engine.notes[-1]
    engine.notes = ("first", *engine.notes)
    assert engine.notes[0] == "first"
    assert len(engine.notes) == 2


def test_rows_stay_within_the_sizes_an_engine_was_built_for() -> None:
    rows = Rows()
    rows.profiles = (ShapeProfile({"rows": (1, 2, 2), "length": (1, 32, 64), "slots": (1, 8, 16)}),)
    engine = PackedEngine(rows)
    engine.run(padded([5] * 50 + [64]))
    assert max(shape[0] for shape in rows.shapes) <= 2
    assert max(shape[1] for shape in rows.shapes) <= 64
    with pytest.raises(FeedError, match="at most 64 tokens, got 65"):
        engine.run(padded([65]))


def test_padding_between_tokens_is_refused() -> None:
    feeds = padded([4, 2])
    feeds["attention_mask"][0] = [1, 0, 1, 1]
    with pytest.raises(FeedError, match="row 0 has padding between"):
        PackedEngine(Rows()).run(feeds)
