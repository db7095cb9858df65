"""Vectors against sentence-transformers' encode, and the sizes fed to the engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from fuselage.engines.text.batching import BatchBudget
from fuselage.engines.text.encoder import TruncationWarning
from fuselage.engines.text.pipeline import text_pipeline
from fuselage.errors import BundleError, TextError, VerificationError
from fuselage.graph.tensors import ShapeProfile


class Sentences(torch.nn.Module):
    """A model with mean or cls pooling and an L2 norm, as the graph has them."""

    def __init__(self, model: Any, pooling: str) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling

    def forward(self, **feeds: Any) -> Any:
        states = self.model(**feeds).last_hidden_state
        weights = feeds["attention_mask"][..., None].to(states.dtype)
        if self.pooling == "mean":
            pooled = (states * weights).sum(1) / weights.sum(1)
        else:
            pooled = states[:, 0]
        return {"sentence_embedding": torch.nn.functional.normalize(pooled, dim=1)}


def spec_of(family: Any, **changes: Any) -> Any:
    return replace(
        family.spec,
        **({"task": "embedding", "outputs": ("sentence_embedding",), "dimension": 32} | changes),
    )


@pytest.fixture(scope="module", params=["mean", "cls"])
def pooling(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def both(
    any_family: Any,
    pooling: str,
    torch_engine: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """Our runtime and a SentenceTransformer over one model."""
    model = any_family.model("")
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    any_family.tokenizer.save_pretrained(folder)
    reference = SentenceTransformer(
        modules=[
            Transformer(str(folder), max_seq_length=40),
            Pooling(32, pooling_mode=pooling),
            Normalize(),
        ],
        prompts={"query": "search this: ", "empty": ""},
        device="cpu",
    )
    spec = spec_of(any_family, prompts={"query": "search this: ", "empty": ""})
    engine = torch_engine(Sentences(model, pooling), spec.inputs, spec.outputs)
    return text_pipeline(engine, any_family.path, spec), reference


def close(ours: Any, theirs: Any) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_vectors_equal_sentence_transformers(both: Any, texts: list[str]) -> None:
    runtime, reference = both
    close(runtime(texts), reference.encode(texts))
    close(runtime(texts[3]), reference.encode(texts[3]))
    close(runtime(texts[3:4]), reference.encode(texts[3:4]))
    close(runtime(text for text in texts), reference.encode(texts))


def test_long_texts_are_cut_like_sentence_transformers(
    both: Any, texts: list[str], long_text: str
) -> None:
    runtime, reference = both
    many = [*texts, long_text, "Paris " + long_text]
    with pytest.warns(TruncationWarning, match="2 of 12 texts are longer than 40 tokens"):
        close(runtime(many), reference.encode(many))


def test_prompts_equal_sentence_transformers(both: Any, texts: list[str]) -> None:
    runtime, reference = both
    short = [texts[0], texts[8]]
    for options in ({"prompt_name": "query"}, {"prompt": "find "}, {"prompt_name": "empty"}):
        close(runtime(short, **options), reference.encode(short, **options))


def test_default_prompt_is_used(bert: Any, torch_engine: Any) -> None:
    spec = spec_of(bert, prompts={"query": "search: ", "none": ""}, default_prompt="query")
    model = Sentences(bert.model(""), "mean")
    runtime: Any = text_pipeline(torch_engine(model, spec.inputs, spec.outputs), bert.path, spec)
    close(runtime("the fox"), runtime("search: the fox", prompt=""))
    close(runtime("the fox", prompt_name="none"), runtime("the fox", prompt=""))
    assert np.abs(runtime("the fox") - runtime("the fox", prompt="")).max() > 1e-3
    with pytest.raises(TextError, match=r"expected one of \['none', 'query'\], got 'other'"):
        runtime("the fox", prompt_name="other")
    with pytest.raises(TextError, match="text 1: expected some text"):
        runtime(["the fox", " "])


def length_engine(fixed_engine: Any, **options: Any) -> Any:
    """Answers every row with its number of real tokens and its width."""

    def answer(feeds: Any) -> Any:
        ids = feeds["input_ids"]
        widths = np.full(len(ids), ids.shape[1])
        return {"vector": np.stack([(ids != 0).sum(1), widths], 1).astype(np.float16)}

    return fixed_engine(answer, ("vector",), **options)


def counting(bert: Any, engine: Any, **options: Any) -> Any:
    spec = spec_of(bert, inputs=("input_ids",), outputs=("vector",), dimension=2)
    return text_pipeline(engine, bert.path, spec, **options)


def test_order_is_kept_across_batches(bert: Any, fixed_engine: Any) -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 38, 200)
    engine = length_engine(fixed_engine)
    found = counting(bert, engine, budget=BatchBudget(16, 100))(["fox " * size for size in sizes])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, 0], sizes + 2)
    shapes = [feeds["input_ids"].shape for feeds in engine.feeds]
    assert all(rows <= 16 and (rows * width <= 100 or rows == 1) for rows, width in shapes)
    assert sum(rows for rows, _ in shapes) == 200


def test_profile_is_respected(bert: Any, fixed_engine: Any) -> None:
    engine = length_engine(fixed_engine)
    profile = ShapeProfile.parse("batch=2:2:3,sequence=8:16:16")
    runtime = counting(bert, engine, profile=profile)
    with pytest.warns(TruncationWarning, match="1 of 4 texts are longer than 16 tokens"):
        found = runtime(["fox", "fox " * 30, "fox dog", "dog"])
    assert found.tolist() == [[3, 16], [16, 16], [4, 16], [3, 8]]
    shapes = [feeds["input_ids"].shape for feeds in engine.feeds]
    assert shapes == [(3, 16), (2, 8)]


def test_every_call_is_a_bucket_of_a_profile(bert: Any, fixed_engine: Any) -> None:
    engine = length_engine(fixed_engine)
    engine.profiles = (
        ShapeProfile.parse("batch=1:2:4,sequence=1:8:8"),
        ShapeProfile.parse("batch=1:2:2,sequence=9:16:32"),
    )
    engine.buckets = (4, 8, 32)
    whole = ShapeProfile.parse("batch=1:2:4,sequence=1:8:32")
    runtime = counting(bert, engine, profile=whole)
    sizes = [1, 2, 3, 4, 5, 6, 7, 11, 19]
    found = runtime(["fox " * size for size in sizes])
    assert found[:, 0].tolist() == [size + 2 for size in sizes]
    shapes = [feeds["input_ids"].shape for feeds in engine.feeds]
    assert shapes == [(2, 32), (2, 32), (4, 8), (1, 4)]


def test_budget_counts_the_smallest_sequence(bert: Any, fixed_engine: Any) -> None:
    engine = length_engine(fixed_engine)
    profile = ShapeProfile.parse("sequence=10:10:40")
    counting(bert, engine, profile=profile, budget=BatchBudget(64, 30))(["fox"] * 7)
    assert [feeds["input_ids"].shape for feeds in engine.feeds] == [(3, 10), (3, 10), (1, 10)]


def test_static_shape_and_int32_are_respected(bert: Any, fixed_engine: Any) -> None:
    engine = length_engine(fixed_engine, dims=(4, 12), dtype="int32")
    found = counting(bert, engine)(["fox", "fox dog", "dog", "the", "fox"])
    assert found[:, 0].tolist() == [3, 4, 3, 3, 3]
    assert [feeds["input_ids"].shape for feeds in engine.feeds] == [(4, 12), (4, 12)]
    assert engine.feeds[0]["input_ids"].dtype == np.int32


def test_nan_is_an_error(bert: Any, fixed_engine: Any) -> None:
    def answer(feeds: Any) -> Any:
        return {"vector": np.full((len(feeds["input_ids"]), 2), np.nan, np.float32)}

    with pytest.raises(VerificationError, match="engine ort-cpu: output 'vector' holds NaN"):
        counting(bert, fixed_engine(answer, ("vector",)))("fox")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "expected at least one text, got an empty list"),
        ("", "text 0: expected some text"),
        (7, "expected a str or a list of them, got int"),
        (b"bytes", "expected a str or a list of them, got bytes"),
        ({"text": "a"}, "expected a str or a list of them, got dict"),
        (["a", ["b"]], "text 1: expected a str, got list"),
    ],
)
def test_bad_inputs_are_named(bert: Any, fixed_engine: Any, inputs: Any, message: str) -> None:
    engine = length_engine(fixed_engine)
    with pytest.raises(TextError, match=message):
        counting(bert, engine)(inputs)
    assert engine.feeds == []


def test_missing_tokenizer_is_a_bundle_error(bert: Any, fixed_engine: Any, tmp_path: Path) -> None:
    spec = spec_of(bert, inputs=("input_ids",), outputs=("vector",))
    with pytest.raises(BundleError, match="the tokenizer cannot be read"):
        text_pipeline(length_engine(fixed_engine), tmp_path / "none.json", spec)
