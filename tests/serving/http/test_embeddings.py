"""Texts to vectors over HTTP: OpenAI's own client, and /embed."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import fuselage
from fuselage.engines.text.embedding import Embedding

from .conftest import Running

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11", "w2 w2"]


@pytest.fixture(scope="module")
def pipeline(embedder: Path) -> Iterator[Embedding]:
    with fuselage.pipeline(embedder) as runtime:
        assert isinstance(runtime, Embedding)
        yield runtime


def vectors(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array([entry["embedding"] for entry in answer.json()["data"]], np.float32)


def test_the_openai_client_embeds(server: Running, pipeline: Embedding) -> None:
    openai = pytest.importorskip("openai")
    with (
        server.client() as http,
        openai.OpenAI(base_url=server.address + "/v1", api_key="any", http_client=http) as client,
    ):
        answer = client.embeddings.create(model="tiny", input=TEXTS)  # asks for base64 by itself
        expected = pipeline(TEXTS)
        got = np.array([entry.embedding for entry in answer.data])
        np.testing.assert_allclose(got, expected, atol=2e-5)
        lengths = pipeline.encoder.encode(TEXTS).lengths
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == lengths.sum()
        assert [model.id for model in client.models.list()] == ["tiny", "stars"]
        with pytest.raises(openai.NotFoundError, match="not served here"):
            client.embeddings.create(model="none", input="w1")
        with pytest.raises(openai.BadRequestError, match="are not shortened") as caught:
            client.embeddings.create(model="tiny", input="w1", dimensions=4)
        assert caught.value.param == "dimensions"


def test_both_encodings_are_the_same_vectors(http: httpx.Client, pipeline: Embedding) -> None:
    sent: dict[str, Any] = {"model": "tiny", "input": TEXTS[0], "dimensions": 24}
    plain = vectors(http.post("/v1/embeddings", json=sent))
    coded = http.post("/v1/embeddings", json=sent | {"encoding_format": "base64"}).json()
    decoded = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(plain[0], decoded)
    np.testing.assert_allclose(decoded, pipeline(TEXTS[0]), atol=2e-5)


def test_token_ids_stand_for_their_text(http: httpx.Client, pipeline: Embedding) -> None:
    ids = [encoding.ids for encoding in pipeline.encoder.encode(TEXTS).encodings]
    answer = http.post("/v1/embeddings", json={"model": "tiny", "input": ids})
    np.testing.assert_allclose(vectors(answer), pipeline(TEXTS), atol=2e-5)
    one = http.post("/v1/embeddings", json={"model": "tiny", "input": ids[2]})
    np.testing.assert_allclose(vectors(one)[0], pipeline(TEXTS[2]), atol=2e-5)


def test_embed_answers_with_plain_lists(http: httpx.Client, pipeline: Embedding) -> None:
    answer = http.post("/embed", json={"inputs": TEXTS})
    np.testing.assert_allclose(answer.json(), pipeline(TEXTS), atol=2e-5)
    one = http.post("/embed", json={"inputs": TEXTS[1], "model": "tiny"})
    np.testing.assert_allclose(one.json(), [pipeline(TEXTS[1])], atol=2e-5)


def test_long_texts_are_cut_only_when_asked(http: httpx.Client, pipeline: Embedding) -> None:
    long = "w1 w2 w3 w4 " * 40
    refused = http.post("/embed", json={"inputs": ["w1", long]})
    assert refused.status_code == 400
    assert "text 1: expected at most 64 tokens" in refused.json()["error"]
    cut = http.post("/embed", json={"inputs": ["w1", long], "truncate": True})
    with pytest.warns(UserWarning, match="were cut"):
        expected = pipeline(["w1", long])
    np.testing.assert_allclose(cut.json(), expected, atol=2e-5)
    assert http.post("/embed", json={"inputs": long}).status_code == 400  # the next is asked anew


@pytest.mark.parametrize(
    ("changes", "param", "reason"),
    [
        ({"input": ""}, None, "expected some text"),
        ({"input": "   "}, None, "expected some text"),
        ({"input": "\ud800"}, None, "surrogate"),
        ({"input": []}, "input", "an empty list"),
        ({"input": None}, "input", "expected a text"),
        ({"input": {"text": "a"}}, "input", "got an object"),
        ({"input": ["a", 1]}, "input", "only texts"),
        ({"input": ["a", [1]]}, "input", "only texts"),
        ({"input": [[1], []]}, "input", "only texts"),
        ({"input": [1.5]}, "input", "only texts"),
        ({"input": [True]}, "input", "only texts"),
        ({"input": [97]}, None, "0 to 96, got 97"),
        ({"input": [-1]}, None, "0 to 96, got -1"),
        ({"input": [10**40]}, None, "0 to 96"),
        ({"input": [5] * 65}, None, "1 to 64 token ids, got 65"),
        ({"input": ["a"] * 1025}, "input", "at most 1024 texts"),
        ({"encoding_format": "int8"}, "encoding_format", "float or base64"),
        ({"encoding_format": ["float"]}, "encoding_format", "float or base64"),
        ({"dimensions": "24"}, "dimensions", "have 24"),
        ({"dimensions": True}, "dimensions", "have 24"),
        ({"truncate": 1}, "truncate", "true or false"),
        ({"model": 3}, "model", "expected a string"),
        ({"model": "stars"}, "model", "does sequence-classification"),
        ({"nothing": 3}, "nothing", "unknown key"),
    ],
)
def test_bad_requests_get_openai_errors(
    http: httpx.Client, changes: dict[str, Any], param: str | None, reason: str
) -> None:
    import json

    sent = json.dumps({"model": "tiny", "input": "w1"} | changes)
    answer = http.post("/v1/embeddings", content=sent)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert reason in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_a_classifier_predicts(http: httpx.Client, classifier: Path) -> None:
    with fuselage.pipeline(classifier) as runtime:
        expected = runtime(["w1 w2", "w3"])
    answer = http.post("/predict", json={"model": "stars", "inputs": ["w1 w2", "w3"]})
    assert answer.status_code == 200, answer.text
    for got, wanted in zip(answer.json(), expected, strict=True):
        assert got["label"] == wanted["label"]
        assert got["score"] == pytest.approx(wanted["score"], abs=1e-5)
    pair = {"text": "w1", "text_pair": "w2"}
    every = http.post(
        "/predict", json={"model": "stars", "inputs": [pair], "parameters": {"top_k": None}}
    )
    assert [sorted(entry["label"] for entry in row) for row in every.json()] == [["bad", "good"]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parameters": {"top_k": 0}}, "top_k: expected an integer"),
        ({"parameters": {"function_to_apply": "relu"}}, "function_to_apply: expected one of"),
        ({"parameters": {"device": 0}}, "unknown key 'device'"),
        ({"parameters": []}, "expected an object"),
        ({"inputs": 4}, "expected a text"),
        ({"inputs": [["w1", "w2", "w3"]]}, "text 0: expected a str"),
        ({"inputs": [{"text": 5}]}, "text 0"),
        ({"inputs": [{"text": "w1", "more": 1}]}, "text 0"),
        ({"inputs": "w1 " * 90}, "at most 64 tokens"),
    ],
)
def test_bad_predictions_are_refused(
    http: httpx.Client, changes: dict[str, Any], reason: str
) -> None:
    answer = http.post("/predict", json={"model": "stars", "inputs": "w1"} | changes)
    assert answer.status_code == 400, answer.text
    assert reason in answer.json()["error"]
