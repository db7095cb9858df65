from __future__ import annotations

import io
import json

import pytest

from fuselage.calibration.evaluation.records import EvaluationFile, parse_columns
from fuselage.errors import CalibrationError


@pytest.fixture
def write(tmp_path):
    def written(name, *lines, end="\n"):
        path = tmp_path / name
        path.write_text(end.join(lines) + "\n", encoding="utf-8")
        return path

    return written


PAIRS = [f"{number}.5\ttext {number}\tother {number}" for number in range(12)]


def test_table_without_a_header_is_one_number_beside_texts(write):
    file = EvaluationFile.read(write("sts.tsv", *PAIRS))
    assert (len(file.records), file.source) == (12, "sts.tsv")
    place, fields = file.records[1]
    assert place.endswith("sts.tsv: line 2")
    assert fields == {"number": "1.5", "text": "text 1", "pair": "other 1"}


def test_table_with_a_header(write):
    rows = [f'"a, {number}",{number}' for number in range(12)]
    file = EvaluationFile.read(write("labels.csv", "text,label", *rows, ""))
    assert len(file.records) == 12
    assert file.records[0][1] == {"text": "a, 0", "label": "0"}


def test_objects_keep_their_values(write):
    rows = [json.dumps({"question": "q", "answers": {"text": ["a"]}}) for _ in range(12)]
    file = EvaluationFile.read(write("qa.jsonl", *rows[:6], "", *rows[6:]))
    assert len(file.records) == 12
    assert file.records[11][1]["answers"] == {"text": ["a"]}
    assert file.records[11][0].endswith("line 13")


def test_parquet_has_nested_columns(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "qa.parquet"
    answers = [{"text": [f"a {number}"]} for number in range(12)]
    parquet.write_table(pa.table({"question": ["q"] * 12, "answers": answers}), path)
    file = EvaluationFile.read(path)
    assert file.records[3] == (f"{path}: row 4", {"question": "q", "answers": {"text": ["a 3"]}})


def test_digest_is_of_the_rows_and_the_columns(write):
    path = write("sts.tsv", *PAIRS)
    digest = EvaluationFile.read(path).digest
    assert digest == EvaluationFile.read(write("copy.tsv", *PAIRS)).digest
    assert digest != EvaluationFile.read(write("other.tsv", *PAIRS[:-1], "9\tx\ty")).digest
    assert digest != EvaluationFile.read(path, {"score": "number"}).digest


def test_standard_input_is_json_lines(monkeypatch):
    def give(rows):
        content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))

    give([{"text": f"ü {number}", "label": number} for number in range(12)])
    file = EvaluationFile.read("-")
    assert (len(file.records), file.source) == (12, "standard input")
    assert file.records[1] == ("standard input: line 2", {"text": "ü 1", "label": 1})
    give([])
    with pytest.raises(CalibrationError, match="standard input: expected at least 10 examples"):
        EvaluationFile.read("-")
    give(["a text"])
    with pytest.raises(CalibrationError, match="standard input: line 1: expected an object"):
        EvaluationFile.read("-")


def test_few_examples_are_refused(write):
    with pytest.raises(CalibrationError, match=r"few\.tsv: expected at least 10 examples.*got 9"):
        EvaluationFile.read(write("few.tsv", *PAIRS[:9]))


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.txt", PAIRS, r"a\.txt: expected a file with columns that ends in \.jsonl.* got \.txt"),
        ("a", PAIRS, "got no ending"),
        ("a.jsonl", ["{}", "[1]"], r"a\.jsonl: line 2: expected an object with columns, got list"),
        ("a.jsonl", ["{}", "{"], r"a\.jsonl: line 2: expected one JSON value a line"),
        ("a.tsv", ["1\t2\tx"], r"line 1: expected a header, or one number.* 3 fields of which 2"),
        ("a.tsv", ["1\tx\ty\tz"], "got 4 fields of which 1 are numbers; add a header"),
        ("a.tsv", [*PAIRS, "1\tx"], r"line 13: expected 3 fields as in the header, got 2"),
    ],
)
def test_unusable_files_are_named_with_line_and_remedy(write, name, lines, message):
    with pytest.raises(CalibrationError, match=message):
        EvaluationFile.read(write(name, *lines))


def test_missing_file(tmp_path):
    with pytest.raises(CalibrationError, match=r"none\.jsonl: no such file"):
        EvaluationFile.read(tmp_path / "none.jsonl")


def test_columns_are_parsed():
    assert parse_columns(["score=gold", "text=a=b"]) == {"score": "gold", "text": "a=b"}
    with pytest.raises(CalibrationError, match=r"'score': expected ROLE=COLUMN, as score=gold"):
        parse_columns(["score"])
    with pytest.raises(CalibrationError, match=r"'score=b': is given twice"):
        parse_columns(["score=a", "score=b"])


def test_unknown_role(write):
    with pytest.raises(CalibrationError, match=r"evaluation column gold=x: expected one of text, "):
        EvaluationFile.read(write("sts.tsv", *PAIRS), {"gold": "x"})
