"""A report that came with a bundle from anywhere is read by a rebuild as what it is: input."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from fuselage.compiler.rebuilding.past import check_report
from fuselage.errors import BundleError

REPORT: dict[str, Any] = {
    "targets": {"ort-cpu": {"precision": "int8", "lost": []}},
    "verification": {"passed": True, "targets": [{"target": "ort-cpu", "passed": True}]},
    "latency": {},
    "quantization": {"kept_float": [{"node": "pooler", "reason": "one row a text"}]},
    "shapes": {
        "profiles": [{"batch": [1, 8, 64], "sequence": [1, 128, 512]}],
        "buckets": [],
        "padding": None,
    },
    "notes": 3,
}


def test_a_report_as_builds_write_it_is_taken() -> None:
    check_report(REPORT, "r")
    check_report({**REPORT, "quantization": None, "shapes": None, "rebuilt": {}}, "r")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("targets",), [], r"r: 'targets' must be an object, got \[\]"),
        (("targets", "ort-cpu", "lost"), "no", "r: targets: ort-cpu: 'lost' must be a list"),
        (("targets", "ort-cpu", "lost"), [1], "lost: '0' must be a string, got 1"),
        (("verification", "targets"), {}, "r: verification: 'targets' must be a list"),
        (("verification", "targets", 0, "passed"), "yes", "'passed' must be true or false"),
        (("verification", "targets", 0, "target"), None, "targets: 0: 'target' must be a string"),
        (("latency",), None, "'latency' must be an object"),
        (("rebuilt",), 1, "'rebuilt' must be an object"),
        (("quantization",), "int8", "'quantization' must be an object"),
        (("quantization", "kept_float"), "pooler", "'kept_float' must be a list"),
        (("quantization", "kept_float", 0), "pooler", "kept_float: '0' must be an object"),
        (("quantization", "kept_float", 0, "node"), 7, "kept_float: 0: 'node' must be a string"),
        (("shapes", "buckets"), [8, "16"], "buckets: '1' must be an integer"),
        (("shapes", "profiles"), [], "'profiles' is empty"),
        (("shapes", "profiles", 0, "batch"), [1, 8], "expected minimum, optimum and maximum"),
        (("shapes", "profiles", 0, "batch"), [1, 8, 64.0], "batch: '2' must be an integer"),
        (("shapes", "profiles", 0, "heads"), [1, 1, 1], "of batch and sequence, got"),
    ],
)
def test_any_other_names_its_key(path: tuple[Any, ...], value: Any, message: str) -> None:
    forged = copy.deepcopy(REPORT)
    *parents, last = path
    place: Any = forged
    for part in parents:
        place = place[part]
    place[last] = value
    with pytest.raises(BundleError, match=message):
        check_report(forged, "r")


@pytest.mark.parametrize("path", [("targets",), ("verification", "targets"), ("latency",)])
def test_a_missing_key_is_named(path: tuple[str, ...]) -> None:
    forged = copy.deepcopy(REPORT)
    place = forged
    for part in path[:-1]:
        place = place[part]
    del place[path[-1]]
    with pytest.raises(BundleError, match=f"the key '{path[-1]}' is missing"):
        check_report(forged, "r")
