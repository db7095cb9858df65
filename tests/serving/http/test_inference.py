"""The Open Inference Protocol, spoken by Triton's own client and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import fuselage

from .conftest import Running

tritonclient = pytest.importorskip("tritonclient.http")

SHAPE = (3, 5)


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    mask = np.ones(SHAPE, np.int64)
    mask[1, 3:] = 0
    return {
        "input_ids": rng.integers(5, 90, SHAPE),
        "attention_mask": mask,
        "token_type_ids": np.zeros(SHAPE, np.int64),
    }


def body(**changes: Any) -> dict[str, Any]:
    tensors = [
        {"name": name, "shape": list(SHAPE), "datatype": "INT64", "data": array.ravel().tolist()}
        for name, array in feeds().items()
    ]
    tensors[0] |= changes
    return {"inputs": tensors}


@pytest.fixture(scope="module")
def expected(embedder: Path) -> np.ndarray:
    with fuselage.load(embedder) as engine:
        return engine.run(feeds())["sentence_embedding"]


@pytest.mark.parametrize("sends_binary", [True, False])
@pytest.mark.parametrize("wants_binary", [True, False])
def test_tritonclient_infers(
    server: Running, expected: np.ndarray, sends_binary: bool, wants_binary: bool
) -> None:
    with tritonclient.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny", "1")
        about = client.get_model_metadata("tiny")
        assert about["inputs"][0] == {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}
        inputs = []
        for name, array in feeds().items():
            tensor = tritonclient.InferInput(name, list(SHAPE), "INT64")
            tensor.set_data_from_numpy(array, binary_data=sends_binary)
            inputs.append(tensor)
        output = tritonclient.InferRequestedOutput("sentence_embedding", binary_data=wants_binary)
        answer = client.infer("tiny", inputs, outputs=[output], request_id="seven")
        np.testing.assert_allclose(answer.as_numpy("sentence_embedding"), expected, atol=1e-6)
        assert answer.get_response()["id"] == "seven"
        every = client.infer("tiny", inputs)
        np.testing.assert_allclose(every.as_numpy("sentence_embedding"), expected, atol=1e-6)


def test_nested_lists_and_the_version_are_taken(http: httpx.Client, expected: np.ndarray) -> None:
    sent = body()
    sent["inputs"][0]["data"] = feeds()["input_ids"].tolist()
    answer = http.post("/v2/models/tiny/versions/1/infer", json=sent)
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert output["shape"] == list(expected.shape)
    np.testing.assert_allclose(output["data"], expected.ravel(), atol=1e-6)
    assert http.get("/v2/models/tiny/versions/2").status_code == 404


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"datatype": "FP32"}, "expected the datatype INT64, got 'FP32'"),
        ({"datatype": ["INT64"]}, "expected the datatype INT64"),
        ({"shape": [3, 6]}, "expected 18 numbers for the shape"),
        ({"shape": [-3, -5]}, "expected a list of at most 8 sizes"),
        ({"shape": [1 << 40, 1 << 40]}, "expected a list of at most 8 sizes"),
        ({"shape": "3,5"}, "expected a list of at most 8 sizes"),
        ({"shape": [15], "data": [5] * 15}, "expected rank 2"),
        ({"shape": [3, 0], "data": []}, "expected"),
        ({"data": [1.5] * 15}, "another kind"),
        ({"data": [True] * 15}, "another kind"),
        ({"data": ["5"] * 15}, "another kind"),
        ({"data": [[1, 2], [3]] * 5}, "another kind"),
        ({"data": [10**30] * 15}, "another kind"),
        ({"data": [(1 << 63) + 1] * 15}, "expected -9223372036854775808"),
        ({"data": [5000] * 15}, "out of data bounds"),
        ({"data": None}, "expected a list, got null"),
        ({"name": "nothing"}, "expected the names"),
        ({"name": "attention_mask"}, "is given twice"),
        ({"parameters": {"binary_data_size": 120}}, "got both"),
        ({"parameters": {"shared_memory_region": "x"}}, "unknown key 'shared_memory_region'"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_wrong_tensors_are_refused_with_a_reason(
    http: httpx.Client, changes: dict[str, Any], reason: str
) -> None:
    answer = http.post("/v2/models/tiny/infer", json=body(**changes))
    assert answer.status_code == 400, answer.text
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    ("head_size", "tail", "reason"),
    [
        (None, b"\0" * 119, "expected 120 bytes behind the JSON, got 119"),
        (None, b"\0" * 121, "1 bytes behind the last binary tensor"),
        ("-1", b"\0" * 120, "expected at most"),
        ("9" * 30, b"\0" * 120, "expected at most"),
        ("x", b"\0" * 120, "expected at most"),
    ],
)
def test_binary_data_must_fit(
    http: httpx.Client, head_size: str | None, tail: bytes, reason: str
) -> None:
    sent = body()
    del sent["inputs"][0]["data"]
    sent["inputs"][0]["parameters"] = {"binary_data_size": 120}
    head = json.dumps(sent).encode()
    headers = {"Inference-Header-Content-Length": head_size or str(len(head))}
    answer = http.post("/v2/models/tiny/infer", content=head + tail, headers=headers)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"outputs": [{"name": "none"}]}, "expected each of ['sentence_embedding']"),
        ({"outputs": [{"name": "sentence_embedding"}] * 2}, "at most once"),
        ({"outputs": "sentence_embedding"}, "expected a list of objects"),
        ({"parameters": {"sequence_id": 4}}, "sequence_id is not supported"),
        ({"parameters": {"binary_data_output": 1}}, "expected true or false"),
        ({"id": 5}, "id: expected a string"),
        ({"inputs": []}, "expected a list of tensors"),
    ],
)
def test_wrong_requests_are_refused_with_a_reason(
    http: httpx.Client, changes: dict[str, Any], reason: str
) -> None:
    answer = http.post("/v2/models/tiny/infer", json=body() | changes)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_an_unknown_model_is_not_found(http: httpx.Client) -> None:
    answer = http.post("/v2/models/none/infer", json=body())
    assert (answer.status_code, answer.json()["error"]) == (
        404,
        "model 'none' is not served here; expected one of ['tiny', 'stars']",
    )
