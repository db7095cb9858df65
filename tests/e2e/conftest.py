"""One build of MiniLM with its real weights for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import fuselage
from fuselage.compiler.pipeline import Outcome, run_build
from fuselage.compiler.recipe import Request
from fuselage.engines.bundle import Bundle


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Without options: ort-cpu in fp32 and tensorrt-rtx in fp16."""
    return fuselage.build("minilm", out=tmp_path_factory.mktemp("minilm") / "bundle")


@pytest.fixture(scope="session")
def minilm_int8(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """What `make engine` builds: both targets in INT8, calibrated on the corpus that ships."""
    out = tmp_path_factory.mktemp("minilm-int8") / "bundle"
    return fuselage.build("minilm", out=out, precision="int8", min_sqnr=20)


@pytest.fixture
def rebuild(minilm: Bundle) -> Callable[..., Outcome]:
    """Ask for the default bundle again, with changes."""

    def ask(out: Path = minilm.root, **changes: object) -> Outcome:
        return run_build(Request(model="minilm", out=out, **changes))  # type: ignore[arg-type]

    return ask
