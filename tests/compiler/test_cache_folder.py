from __future__ import annotations

import os
from pathlib import Path

import pytest

from fuselage.compiler.cache.folder import cache_folder, cache_limit, parse_size
from fuselage.compiler.cache.statistics import calibration_store
from fuselage.compiler.cache.store import Store
from fuselage.errors import BuildError


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
    store = Store.default()
    assert store is not None
    assert store.root == Path(folder)
    statistics = calibration_store(store)
    assert statistics is not None
    assert statistics.folder == Path(folder, "calibration")


def test_user_without_a_home_goes_without_a_store(monkeypatch):
    def homeless():
        raise RuntimeError("could not determine home directory")

    for name in ("FUSELAGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert Store.default() is None
    assert calibration_store(None) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("12k", 12_000), ("7", 7), ("0", 0), ("3B", 3)],
)
def test_sizes_are_read(text, size):
    assert parse_size(text, "--size") == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "5 PB", "1,5GB", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(BuildError, match=r"--size '.*': expected a size such as 5GB"):
        parse_size(text, "--size")


def test_the_limit_is_in_the_environment(monkeypatch):
    monkeypatch.delenv("FUSELAGE_CACHE_LIMIT", raising=False)
    assert cache_limit() == 10 * 10**9
    monkeypatch.setenv("FUSELAGE_CACHE_LIMIT", "0")
    assert Store.default() is None
    monkeypatch.setenv("FUSELAGE_CACHE_LIMIT", "much")
    with pytest.raises(BuildError, match="FUSELAGE_CACHE_LIMIT 'much'"):
        cache_limit()
