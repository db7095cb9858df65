from __future__ import annotations

import os
from pathlib import Path

import pytest

from fuselage.compiler.quantization import cache_folder as module
from fuselage.compiler.quantization.cache_folder import cache_folder, calibration_store


def test_tests_do_not_write_into_a_home():
    assert not Path(os.environ["FUSELAGE_CACHE"]).is_relative_to(Path.home() / ".cache")


@pytest.mark.parametrize(
    ("ours", "xdg", "folder"),
    [
        ("/a", "/b", "/a"),
        ("~/a", "/b", "/home/me/a"),
        ("", "/b", "/b/fuselage"),
        (None, "/b", "/b/fuselage"),
        (None, "relative", "/home/me/.cache/fuselage"),
        (None, None, "/home/me/.cache/fuselage"),
    ],
)
def test_own_variable_first_then_xdg_then_home(monkeypatch, ours, xdg, folder):
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in (("FUSELAGE_CACHE", ours), ("XDG_CACHE_HOME", xdg)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)
    store = calibration_store(print)
    assert store is not None
    assert store.folder == Path(folder, "calibration")


def test_user_without_a_home_goes_without_a_store(monkeypatch):
    def homeless():
        raise RuntimeError("could not determine home directory")

    for name in ("FUSELAGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module.Path, "home", homeless)
    assert calibration_store(print) is None
