"""Bounds: defaults, the gate file, options, and what is wrong with each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fuselage.compiler.checks.proof import GATES
from fuselage.errors import VerificationError
from fuselage.proof.comparing.gates import DEFAULTS, Gates, read_gates

GOOD = """
[default]
cosine_min = 0.5
relative = 0.25

[output.logits]
relative = 1e-3
kl = 0.25

[precision.int8]
cosine_mean = 0.9
"""


def test_defaults_are_what_a_build_holds_its_engines_to() -> None:
    assert set(DEFAULTS) == set(GATES)
    for precision, gate in GATES.items():
        assert DEFAULTS[precision]["cosine_min"] == gate.cosine_min
        assert DEFAULTS[precision]["cosine_mean"] == gate.cosine_mean
        assert gate.relative in (None, DEFAULTS[precision]["relative"])
    assert Gates().bounds("x", None) == DEFAULTS["fp32"]


def test_an_output_wins_over_every_output_and_that_over_the_precision(tmp_path: Path) -> None:
    gates = read_gates(_written(tmp_path, GOOD))
    logits, other = gates.bounds("logits", "int8"), gates.bounds("other", "int8")
    assert logits == {"relative": 1e-3, "cosine_mean": 0.9, "cosine_min": 0.5, "kl": 0.25}
    assert other == {"relative": 0.25, "cosine_mean": 0.9, "cosine_min": 0.5}
    assert gates.bounds("other", "fp32")["cosine_mean"] == DEFAULTS["fp32"]["cosine_mean"]


def test_what_is_said_of_every_output_wins_over_its_precision(tmp_path: Path) -> None:
    path = _written(tmp_path, "[precision.int8]\nrelative = 0.1\ncosine_mean = 0.7\n")
    bounds = read_gates(path, ["relative=0.3"]).bounds("other", "int8")
    assert (bounds["relative"], bounds["cosine_mean"]) == (0.3, 0.7)


def test_tolerances_win_over_the_file(tmp_path: Path) -> None:
    gates = read_gates(_written(tmp_path, GOOD), ["logits:relative=0.5", "snr_db=3"])
    assert gates.bounds("logits", "fp32")["relative"] == 0.5
    assert gates.bounds("other", "fp32")["snr_db"] == 3.0
    assert not gates.is_default("logits", "fp32", "relative")
    assert gates.is_default("other", "fp32", "cosine_mean")
    assert not gates.is_default("other", "fp32", "relative")
    assert not gates.is_default("other", "int8", "cosine_mean")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the gate file is empty; expected [default]"),
        ("[default\nrelative = 1", "the gate file is no TOML: Expected ']' at the end of a table"),
        ("relative = 1e-3", "key 'relative': expected [default]"),
        ("default = 3", "key 'default': expected a table of metrics, got 3"),
        ("output = 3", "key 'output': expected [default]"),
        ("[output.x]\nmaximum = 1", "key 'output.x.maximum': no such metric; expected one of rel"),
        ("[output.x]\nrelative = '1e-3'", "key 'output.x.relative': expected a number, got '1e-3'"),
        ("[default]\nrelative = true", "key 'default.relative': expected a number, got True"),
        ("[default]\nrelative = nan", "key 'default.relative': expected a number, got nan"),
        ("[default]\nkl = -1", "key 'default.kl': expected a bound of at least 0, got -1"),
        ("[default]\ntop_1 = 99", "key 'default.top_1': expected a bound of at most 1, got 99"),
        ("[precision.fp4]\nkl = 1", "key 'precision.fp4': expected one of fp32"),
    ],
)
def test_malformed_files_are_refused_by_key_or_line(
    tmp_path: Path, content: str, reason: str
) -> None:
    path = _written(tmp_path, content)
    with pytest.raises(VerificationError, match=re.escape(f"{path}: {reason}")):
        read_gates(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"gate file cannot be read: No such file"):
        read_gates(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1e-3", "expected OUTPUT:METRIC=NUMBER"),
        ("relative=small", "expected a number, got 'small'"),
        ("logits:best=1", "no such metric"),
        ("relative=-1", "expected a bound of at least 0"),
    ],
)
def test_malformed_tolerances_are_refused(text: str, reason: str) -> None:
    with pytest.raises(VerificationError, match=re.escape(f"--tolerance {text}: {reason}")):
        read_gates(None, [text])


def test_bounds_for_an_output_that_is_not_there() -> None:
    gates = read_gates(None, ["logit:relative=1"])
    with pytest.raises(VerificationError, match=r"no output is called 'logit'; there are logits"):
        gates.check_outputs(["logits"])


def _written(folder: Path, content: str) -> Path:
    path = folder / "gate.toml"
    path.write_text(content)
    return path
