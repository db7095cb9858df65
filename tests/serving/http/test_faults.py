"""Clients that break the rules leave the server as it was."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from pathlib import Path

import httpx
import pytest

from .conftest import Running, start

GOOD = {"inputs": "w1 w2 w3"}


def post(body: bytes, *headers: str, path: str = "/embed") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", "connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "expected JSON"),
        (b"{", "expected JSON"),
        (b"[1]", "expected a JSON object, got a list"),
        (b"null", "got null"),
        (b'{"inputs": "\xff"}', "expected UTF-8, got invalid start byte at byte 12"),
        (b'\xef\xbb\xbf{"inputs": "a"}', "expected JSON"),
        ('{"inputs": "a"}'.encode("utf-16"), "expected UTF-8"),
        (b'{"inputs": NaN}', "not finite"),
        (b'{"inputs": [1e999]}', "not finite"),
        (b'{"inputs": -Infinity}', "not finite"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "expected JSON"),
        (b'{"inputs": ' + b"[" * 100_000 + b"}", "nested too deep"),
        (b'{"a":' * 20_000, "nested too deep"),
        (b'{"inputs": "a", "inputs": "b"}', "the key 'inputs' twice"),
        (b'{"inputs": "a"} {}', "expected JSON"),
        (b'{"inputs": "\x00"}', "expected JSON"),
    ],
)
def test_malformed_bodies_are_refused_with_a_reason(
    http: httpx.Client, body: bytes, reason: str
) -> None:
    answer = http.post("/embed", content=body)
    assert answer.status_code == 400, answer.text
    assert reason in answer.json()["error"]
    assert http.post("/embed", json=GOOD).status_code == 200


def test_oversize_bodies_are_refused_before_they_are_read(server: Running) -> None:
    start_time = time.monotonic()
    answer = server.raw(post(b"", "content-length: 99999999"))
    assert status(answer) == 413
    assert b"larger than the 262,144 bytes" in answer
    assert time.monotonic() - start_time < 5
    assert status(server.raw(post(b"", "content-length: " + "9" * 300))) in (400, 413)


def test_chunked_bodies_are_read_and_bounded(http: httpx.Client) -> None:
    good = json.dumps(GOOD).encode()
    assert http.post("/embed", content=iter([good[:5], good[5:]])).status_code == 200
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # cut while still sending
        answer = http.post("/embed", content=(b"x" * 65536 for _ in range(40)))
        assert answer.status_code == 413
    assert http.post("/embed", json=GOOD).status_code == 200


def test_bytes_that_are_no_http_are_refused(server: Running) -> None:
    assert status(server.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40)) == 400
    assert status(server.raw(b"nonsense\r\n\r\n")) == 400
    assert server.raw(b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000) in (b"",)
    assert status(server.raw(post(b"zz\r\n", "transfer-encoding: chunked"))) in (0, 400)
    both = post(b"0\r\n\r\n", "transfer-encoding: chunked", "content-length: 5")
    assert status(server.raw(both)) == 400


def test_compressed_bodies_are_refused(http: httpx.Client) -> None:
    answer = http.post("/embed", json=GOOD, headers={"content-encoding": "gzip"})
    assert (answer.status_code, "expected none" in answer.text) == (415, True)


def test_cut_connections_leave_nothing_behind(server: Running, http: httpx.Client) -> None:
    good = json.dumps(GOOD).encode()
    for cut in (10, 60, None):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                sent = post(good, f"content-length: {len(good)}")
                connection.sendall(sent[:cut])
                reset = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    assert http.post("/embed", json=GOOD).status_code == 200
    ends = time.monotonic() + 10
    while "fuselage_http_in_flight 1.0" not in (page := http.get("/metrics").text):
        assert time.monotonic() < ends, page  # the one is the request for this page
        time.sleep(0.05)


def test_methods_paths_and_models_that_are_not_there(http: httpx.Client) -> None:
    answer = http.delete("/embed")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert http.get("/nothing").status_code == 404
    assert http.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert http.get("/v1/models/none").json()["error"]["code"] == "model_not_found"
    assert http.get("/v2/models/%2e%2e%2fetc").status_code == 404
    assert http.head("/health").status_code == 200


def test_request_ids_are_kept_or_made(http: httpx.Client, server: Running) -> None:
    kept = http.post("/embed", json=GOOD, headers={"x-request-id": "abc-1"})
    assert kept.headers["x-request-id"] == "abc-1"
    made = http.post("/embed", json=GOOD, headers={"x-request-id": 'a" injected'})
    assert len(made.headers["x-request-id"]) == 16
    ends = time.monotonic() + 5
    while not any('"abc-1"' in line for line in server.log):
        assert time.monotonic() < ends
        time.sleep(0.02)
    (line,) = [json.loads(line) for line in server.log if '"abc-1"' in line]
    assert (line["path"], line["status"], line["method"]) == ("/embed", 200, "POST")


def test_metrics_count_answers_by_route(http: httpx.Client) -> None:
    http.get("/nothing-such")
    http.post("/embed", json=GOOD)
    page = http.get("/metrics").text
    assert 'fuselage_http_requests_total{route="/embed",status="200"}' in page
    assert 'fuselage_http_requests_total{route="other",status="404"}' in page
    assert "nothing-such" not in page
    assert 'fuselage_tokens_total{model="tiny"}' in page
    assert 'fuselage_batches_total{model="tiny"}' in page
    assert "process_resident_memory_bytes" in page


def test_the_page_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "/v1/embeddings" in page.text
    assert "<script" not in page.text
    assert "//" not in page.text.replace("<!doctype", "")
    assert http.get("/openapi.json").json()["openapi"] == "3.1.0"


def test_slow_clients_are_cut_off_and_others_answered(embedder: Path) -> None:
    patch = """
import dataclasses
from fuselage.serving.http import settings
settings.Settings.__init__.__kwdefaults__ = dict(
    settings.Settings.__init__.__kwdefaults__, header_timeout=0.5, idle_timeout=1.0
)
"""
    with start(embedder, "--timeout", "1", patch=patch) as server:
        with contextlib.ExitStack() as slow:
            sockets = [
                slow.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=15))
                for _ in range(30)
            ]
            for number, connection in enumerate(sockets):
                head = post(b"{", "content-length: 100") if number % 2 else b"POST /embed HTT"
                connection.sendall(head)
            with server.client() as http:
                assert http.post("/embed", json=GOOD).status_code == 200
            answers = [connection.recv(65536) for connection in sockets]
        assert [status(answer) for answer in answers] == [0, 408] * 15
        with server.client() as http:
            assert http.post("/embed", json=GOOD).status_code == 200
        assert server.stop() == 0


def test_a_key_is_asked_for_and_never_shown(embedder: Path) -> None:
    key = "0123456789abcdef-secret"
    with start(embedder, key=key) as server, server.client() as http:
        refused = http.post("/v1/embeddings", json={"model": "bundle", "input": "w1"})
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        for wrong in (key[:-1], key + "x", "", "x", "\u00e9"):
            headers = {"authorization": f"Bearer {wrong}".strip().encode("latin-1")}
            assert http.get("/metrics", headers=headers).status_code == 401
        assert http.get("/health").status_code == 200
        good = {"authorization": f"Bearer {key}"}
        assert http.post("/embed", json=GOOD, headers=good).status_code == 200
        assert http.get("/openapi.json", headers=good).json()["security"] == [{"key": []}]
        assert server.stop() == 0
    assert not [line for line in server.log if "secret" in line]
