"""Too much at once, too late, and the end."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from .conftest import SLOW, Running, start

GOOD = {"inputs": "w1 w2 w3"}


def embed(server: Running) -> tuple[httpx.Response, float]:
    with server.client() as http:
        begun = time.monotonic()
        return http.post("/embed", json=GOOD), time.monotonic() - begun


def test_overload_is_refused_at_once_and_passes(embedder: Path) -> None:
    slow = SLOW.format(seconds=0.3)
    with start(embedder, "--max-queue", "4", patch=slow) as server:
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda _: embed(server), range(24)))
        refused = [(answer, took) for answer, took in answers if answer.status_code == 503]
        good = [answer for answer, _ in answers if answer.status_code == 200]
        assert len(good) >= 4
        assert len(good) + len(refused) == 24
        assert refused
        assert all(answer.headers["retry-after"] == "1" for answer, _ in refused)
        assert sorted(took for _, took in refused)[len(refused) // 2] < 0.3
        assert len({answer.text for answer in good}) == 1
        assert embed(server)[0].status_code == 200
        assert server.stop() == 0


def test_a_late_answer_is_a_504_and_the_next_is_answered(embedder: Path) -> None:
    patch = SLOW.format(seconds=1.0)
    with start(embedder, "--timeout", "0.4", patch=patch) as server:
        answer, took = embed(server)
        assert answer.status_code == 504
        assert "no answer within 0.4 s" in answer.json()["error"]
        assert took < 0.9
        with server.client() as http:
            assert http.get("/health").status_code == 200
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_answers_what_is_under_way(embedder: Path, number: int) -> None:
    patch = SLOW.format(seconds=0.8)
    with start(embedder, patch=patch) as server, server.client() as kept:
        assert kept.get("/v2/health/ready").status_code == 200
        with ThreadPoolExecutor(3) as pool:
            under_way = [pool.submit(embed, server) for _ in range(3)]
            time.sleep(0.4)
            server.process.send_signal(number)
            time.sleep(0.1)
            refused = kept.post("/embed", json=GOOD)
            assert refused.status_code == 503
            assert "stopping" in refused.json()["error"]
            with server.client() as other:
                assert other.get("/v2/health/ready").status_code == 503
            assert [job.result()[0].status_code for job in under_way] == [200] * 3
        assert server.process.wait(10) == 0


def test_a_client_that_leaves_gives_up_its_place(embedder: Path) -> None:
    patch = SLOW.format(seconds=0.5)
    with start(embedder, "--max-queue", "8", patch=patch) as server:
        leaving = [threading.Thread(target=_leave, args=(server,)) for _ in range(8)]
        for thread in leaving:
            thread.start()
        for thread in leaving:
            thread.join()
        time.sleep(0.2)
        assert embed(server)[0].status_code == 200
        with server.client() as http:
            page = http.get("/metrics").text
        assert 'fuselage_http_requests_total{route="/embed",status="499"} 8.0' in page
        assert server.stop() == 0


def _leave(server: Running) -> None:
    with (
        httpx.Client(base_url=server.address, timeout=0.2, trust_env=False) as http,
        pytest.raises(httpx.ReadTimeout),
    ):
        http.post("/embed", json=GOOD)


def test_an_engine_that_fails_is_a_500_that_says_nothing_of_the_inside(embedder: Path) -> None:
    patch = """
from fuselage.engines.ort.engine import OrtEngine
def fail(self, feeds):
    raise KeyError("/secret/path")
OrtEngine.run = fail
"""
    with start(embedder, patch=patch) as server:
        answer, _ = embed(server)
        assert answer.status_code == 500
        assert answer.json() == {"error": "internal error; the server's log says more"}
        assert server.stop() == 0
    assert any("/secret/path" in line for line in server.log)
