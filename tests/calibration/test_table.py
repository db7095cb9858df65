from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fuselage.calibration.statistics.extrema import TensorStatistics
from fuselage.calibration.statistics.outlier import Outlier
from fuselage.calibration.table import CalibrationTable, TensorRange
from fuselage.errors import CalibrationError


@pytest.fixture
def table():
    seen = TensorStatistics(count=10, minimum=-1.0 / 3.0, maximum=0.25)
    dead = TensorStatistics(count=10, minimum=0.0, maximum=0.0)
    return CalibrationTable(
        method="absmax",
        texts=3,
        tokens=17,
        source="default corpus",
        graph_digest="g" * 64,
        data_digest="d" * 64,
        ranges={"a": TensorRange(1.0 / 3.0, seen), "b": TensorRange(0.0, dead)},
    )


def test_round_trip_is_exact(table, tmp_path):
    path = tmp_path / "calibration.json"
    table.save(path)
    assert CalibrationTable.load(path) == table
    assert CalibrationTable.load(path).to_json() == path.read_text()


def test_json_names_method_digests_and_ranges(table):
    data = json.loads(table.to_json())
    assert data["schema"] == 4
    assert (data["method"], data["texts"], data["tokens"]) == ("absmax", 3, 17)
    assert data["ranges"]["b"] == {
        "amax": 0.0, "estimator": "absmax", "count": 10, "minimum": 0.0, "maximum": 0.0
    }  # fmt: skip


@pytest.mark.parametrize(("token", "position"), [(101, 0), (None, None)])
def test_outlier_is_kept_as_numbers_alone(table, token, position):
    found = Outlier(value=-28.5, channel=99, median=1.9, token=token, position=position)
    table = replace(table, ranges={"a": replace(table.ranges["a"], outlier=found)})
    entry = json.loads(table.to_json())["ranges"]["a"]["outlier"]
    assert entry == {
        "value": -28.5, "channel": 99, "median": 1.9, "token": token, "position": position
    }  # fmt: skip
    assert CalibrationTable.from_json(table.to_json()) == table


def test_params_cover_the_range_and_floor_dead_tensors(table):
    params = table.params()
    assert float(params["a"].scale) == pytest.approx(1 / 3 / 127)
    assert 0 < float(params["b"].scale) < 1e-7


def test_range_that_is_not_finite_is_named(table):
    text = table.to_json().replace('"amax": 0.0', '"amax": NaN')
    with pytest.raises(CalibrationError, match="tensor 'b': quantisation range"):
        CalibrationTable.from_json(text).params()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a calibration table"),
        ("[]", "not a calibration table"),
        ('{"schema": 4}', "KeyError: 'method'"),
        ('{"schema": 9}', "expected schema 4, got 9; calibrate again"),
    ],
)
def test_foreign_files_are_refused(tmp_path, text, reason):
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=rf"calibration\.json: .*{reason}"):
        CalibrationTable.load(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match="expected a readable JSON file"):
        CalibrationTable.load(tmp_path / "calibration.json")
