"""The edges that ``fuselage inspect`` shows of a quantised bundle."""

from __future__ import annotations

from typing import Any

import pytest

from fuselage.compiler.cli.edges import print_edges, short_names


def edge(linears: list[str], noise: float | None, **others: Any) -> dict[str, Any]:
    known = {
        "tensor": "x", "linears": linears, "format": "int8", "reason": None, "amax": 2.0,
        "alpha": 0.9, "transform": "gain of LayerNormalization, one Mul restores it for others",
        "shift": "channel", "clip_rate": 1.25e-4, "headroom": 1.234, "noise_share": noise,
        "outlier": {
            "value": -24.75, "channel": 856, "token": "[CLS]", "position": 0, "median": 1.5
        },
    }  # fmt: skip
    return known | others


def quantization(*edges: dict[str, Any], **others: Any) -> dict[str, Any]:
    known = {
        "format": "int8", "linears": 40, "int8": 38, "fp8": 0, "sqnr_db": 25.612,
        "sqnr_interval": [25.255, 25.945], "cosine_min": 0.99724, "held_out_texts": 64,
        "edges": list(edges),
    }  # fmt: skip
    return known | others


MANY = [edge([f"layer.{n}.query/MatMul", f"layer.{n}.key/MatMul"], n / 100) for n in range(14)]


def test_the_noisiest_ten_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    print_edges(quantization(*MANY))
    out, err = capsys.readouterr()
    assert err == (
        "int8: 38 of 40 linears; 25.6 dB (25.3 to 25.9), least cosine 0.99724, on 64 held-out texts"
        "\n"
    )
    assert "10 of 14 (--all for all)" in out
    rows = [line for line in out.splitlines() if "[CLS]" in line]
    assert [row.split()[1] for row in rows] == [f"{n}.0" for n in range(13, 3, -1)]
    assert rows[0].split("│")[2:7] == [
        "  0.013 ", "  1.23 ", " -24.8 [CLS] 856 ", " 0.90 norm ", " 13.query, key "
    ]  # fmt: skip
    assert "left in float" not in out


def test_all_shows_all(capsys: pytest.CaptureFixture[str]) -> None:
    print_edges(quantization(*MANY), every=True)
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if "[CLS]" in line]) == 14
    assert "--all" not in out


def test_float_edges_are_listed_with_their_reason(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "left in float for the accuracy budget: it makes 31.0% of the noise in the answer"
    kept = edge(["a.out"], 0.31, format="float", reason=reason, alpha=None, outlier=None)
    print_edges(quantization(edge(["a.in"], 0.69), kept))
    quantised, floats = capsys.readouterr().out.split("left in float\n")
    assert "69.0" in quantised
    assert "31.0" not in quantised
    assert "accuracy budget" in floats


def test_what_was_not_measured_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    bare = edge(["a.in"], None, clip_rate=None, headroom=None, outlier=None, alpha=None)
    print_edges(quantization(bare, sqnr_db=None, sqnr_interval=None))
    out, err = capsys.readouterr()
    assert err == "int8: 38 of 40 linears; not measured on held-out text\n"
    (row,) = [line for line in out.splitlines() if "a.in" in line]
    assert row.count(" - ") == 5


def test_reports_without_edges_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    old = {"linears": 2, "int8": 2, "sqnr_db": 20.0, "cosine_min": 0.9, "held_out_texts": 5}
    print_edges(old)
    out, err = capsys.readouterr()
    assert err == "int8: 2 of 2 linears; 20.0 dB, least cosine 0.9, on 5 held-out texts\n"
    assert out == ""


def test_names_lose_what_they_share_at_both_ends_and_nothing_else() -> None:
    names = ["enc.layer.0.query/MatMul", "enc.layer.0.out/MatMul", "enc.layer.1.out/MatMul"]
    assert list(short_names(names).values()) == ["0.query", "0.out", "1.out"]
    assert short_names(["node_1", "node_12"]) == {"node_1": "node_1", "node_12": "node_12"}
    assert short_names(["a.b.c"]) == {"a.b.c": "a.b.c"}
    assert short_names(["/a/b/MatMul", "/a/b_1/MatMul"]) == {
        "/a/b/MatMul": "b", "/a/b_1/MatMul": "b_1"
    }  # fmt: skip
    assert short_names([]) == {}
