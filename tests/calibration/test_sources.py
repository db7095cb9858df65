from __future__ import annotations

import csv
import io
import json
import sys
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuselage.calibration.text.data import CalibrationSet
from fuselage.calibration.text.samples import TokenIds
from fuselage.calibration.text.sources import data_files, read_samples
from fuselage.calibration.text.sources_lines import LONGEST_LINE
from fuselage.errors import CalibrationError, MissingPackageError

ROWS = [{"id": 1, "text": 'one, "two"', "label": "a"}, {"id": 2, "text": "drei", "label": None}]


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, *columns):
    return list(read_samples(path, columns))


@pytest.fixture
def stdin(monkeypatch):
    def give(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))

    return give


# --- what is read


def test_json_lines_take_the_named_or_the_usual_column(tmp_path):
    path = written(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in ROWS))
    assert read(path) == ['one, "two"', "drei"]
    assert read(path, "label") == ["a", None]
    assert read(path, "text", "label") == [('one, "two"', "a"), None]


def test_json_lines_hold_texts_pairs_and_token_ids_without_columns(tmp_path):
    path = written(tmp_path / "a.ndjson", '"a text"\n["question", "answer"]\n[101, 7, 102]\n\n[]\n')
    pair = ("question", "answer")
    assert read(path) == ["a text", pair, TokenIds((101, 7, 102)), None, None]


def test_the_only_column_needs_no_name(tmp_path):
    assert read(written(tmp_path / "a.csv", "sentence\nhello\n")) == ["hello"]
    assert read(written(tmp_path / "a.jsonl", '{"input_ids": [1, 2], "n": 2}')) == [
        TokenIds((1, 2))
    ]


def test_a_row_without_a_text_is_blank_and_one_without_the_column_an_error(tmp_path):
    path = written(tmp_path / "a.jsonl", '{"text": "x"}\n{"text": null, "n": 1}\n{"text": " "}')
    assert read(path) == ["x", None, None]
    path = written(tmp_path / "b.jsonl", '{"text": "x"}\n{"other": 1}\n{"text": " "}')
    with pytest.raises(
        CalibrationError, match=r"b\.jsonl: line 2: there is no column 'text'; .* are 'other'"
    ):
        read(path)
    with pytest.raises(CalibrationError, match=r"b\.jsonl: line 2: there is no column 'text'"):
        read(path, "text")


def test_csv_keeps_quoted_commas_and_line_breaks(tmp_path):
    path = written(
        tmp_path / "a.csv", '\ufeffid,text\r\n1,"one, ""two""\r\nlines"\r\n\r\n2,\r\n3,x'
    )
    assert read(path, "text") == ['one, "two"\r\nlines', None, None, "x"]


def test_tsv_takes_quotes_as_they_are(tmp_path):
    path = written(tmp_path / "a.TSV", 'score\ta\tb\n5.0\t"Hi," he said\tone "\n1\t\tx\n')
    assert read(path, "a", "b") == [('"Hi," he said', 'one "'), None]


def test_standard_input_is_plain_text_or_json_lines(stdin):
    stdin("\ufeffüber\n{\n".encode())
    assert read("-") == ["über", "{"]
    stdin(b'{"q": "one"}\n{"q": "two"}')
    assert read("-", "q") == ["one", "two"]


def test_a_folder_is_all_its_data_files(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / ".cache").mkdir()
    written(tmp_path / "train" / "a.jsonl", '{"text": "a"}')
    written(tmp_path / "b.csv", "text\nb\n")
    written(tmp_path / ".cache" / "c.jsonl", '{"text": "hidden"}')
    written(tmp_path / "dataset_info.json", '{"text": "metadata"}')
    written(tmp_path / "README.txt", "about")
    assert read(tmp_path) == ["b", "a"]
    (tmp_path / "texts").mkdir()
    written(tmp_path / "texts" / "c.txt", "c")
    assert read(tmp_path / "texts") == ["c"]
    data = CalibrationSet.from_files([tmp_path, tmp_path / "texts" / "c.txt"])
    assert sorted(data.texts) == ["a", "b", "c"]
    assert data.source == f"{tmp_path.name}, c.txt"


def test_a_long_source_is_never_held_whole(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("w") as file:
        file.writelines(f"{number:01000}\n" for number in range(20_000))
    tracemalloc.start()
    data = CalibrationSet.from_files([path], limit=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(data.texts), data.seen) == (100, 20_000)
    assert path.stat().st_size > 20_000_000
    assert peak < 5_000_000  # 20,000 keys for counting, and at most 200 texts


TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))


@given(TEXTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tables_and_json_lines_give_back_what_was_written(tmp_path, texts):
    expected = [text.strip() or None for text in texts]
    lines = "".join(json.dumps({"n": 1, "text": text}) + "\n" for text in texts)
    assert read(written(tmp_path / "a.jsonl", lines)) == expected
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("n", "text"), *((1, text) for text in texts)])
    assert read(tmp_path / "a.csv") == expected


@given(st.binary(max_size=200), st.sampled_from(["a.txt", "a.jsonl", "a.csv", "a.tsv"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_texts_or_one_message(tmp_path, content, name):
    path, texts, message = written(tmp_path / name, content), (), ""
    try:
        texts = CalibrationSet.from_files([path]).texts
    except CalibrationError as error:
        message = str(error)
    assert texts or name in message


# --- what is refused


@pytest.mark.parametrize(
    ("name", "content", "columns", "reason"),
    [
        ("a.jsonl", '{"q": "x", "a": "y"}', ("text",), "line 1: there is no column 'text'; its"),
        ("a.jsonl", '{"q": "x", "a": "y"}', ("text",), "its columns are 'q', 'a'"),
        ("a.jsonl", '{"q": "x", "a": "y"}', (), "told which column .* 'q', 'a'.*--text-column"),
        ("a.jsonl", "{}", (), "it has no columns"),
        (
            "a.jsonl",
            '{"text": "x"}\n{"text": ',
            (),
            "line 2: expected one JSON value .*: Expecting value at column 10",
        ),
        ("a.jsonl", "[\n  1\n]", (), "line 1: expected one JSON value a line.*array one a line"),
        ("a.jsonl", '{"text": 3}', (), "line 1: expected a text, .* got int"),
        ("a.jsonl", '{"text": {"en": "x"}}', (), "line 1: expected a text, .* got dict"),
        ("a.jsonl", "[1, 2.5]", (), r"got list of 2 \(float, int\)"),
        ("a.jsonl", "[1, true]", (), r"got list of 2 \(bool, int\)"),
        ("a.jsonl", "[1, -2]", (), "line 1: expected token ids from 0 on, got -2"),
        ("a.jsonl", '["a", "b", "c"]', (), r"got list of 3 \(str\)"),
        ("a.jsonl", '"\\ud800"', (), "line 1: the character .* is half of a surrogate pair"),
        ("a.jsonl", '"x"', ("text",), "line 1: expected an object with 'text', got str"),
        ("a.jsonl", "[" * 100_000, (), "line 1: expected one JSON value a line"),
        ("a.csv", "q,a\nx,y\n", ("text",), "there is no column 'text'; its columns are 'q', 'a'"),
        ("a.csv", "text,text\nx,y\n", (), "there are 2 columns 'text'; give each a name"),
        ("a.csv", "q,q\nx,y\n", ("q",), "there are 2 columns 'q'; give each a name"),
        ("a.csv", "q,a\nx,y,z\n", ("q",), "line 2: expected 2 fields as in the header, got 3"),
        ("a.csv", 'q\n"x', (), "line 2: unexpected end of data"),
        ("a.csv", "q\n" + "x" * 200_000, (), "line 2: field larger than field limit"),
        ("a.tsv", "q\tb\nx\n", ("q",), "line 2: expected 2 fields as in the header, got 1"),
        ("a.csv", b"text\n\xff\n", (), "line 2 is not UTF-8"),
        ("a.csv", b"text\na\0b\n", (), "line 2 holds a NUL byte"),
        ("a.txt", "x", ("text",), "plain text has no column 'text'.*jsonl"),
        ("a.txt", "x", ("a", "b", "c"), "expected one, or two for pairs, got 3"),
        ("a.txt", "x" * (LONGEST_LINE + 1), (), "line 1 is longer than 1,048,576 bytes"),
        ("a.txt", b"\x89PNG\r\n\x1a\n", (), "line 1 is not UTF-8 .byte 0x89"),
    ],
)
def test_bad_sources_are_one_message(tmp_path, name, content, columns, reason):
    with pytest.raises(CalibrationError, match=reason) as raised:
        read(written(tmp_path / name, content), *columns)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_empty_sources_are_one_message(tmp_path, name):
    path = written(tmp_path / name, "")
    with pytest.raises(CalibrationError, match=rf"{name}: expected at least one text"):
        CalibrationSet.from_files([path])


def test_the_longest_line_is_still_a_line(tmp_path):
    path = written(tmp_path / "a.txt", "x" * (LONGEST_LINE - 1) + "\nb")
    assert list(map(len, read(path))) == [LONGEST_LINE - 1, 1]


def test_a_folder_without_data_is_refused(tmp_path):
    written(tmp_path / "README.md", "hello")
    with pytest.raises(CalibrationError, match=r"expected a folder with \.parquet.*1 files"):
        data_files(tmp_path)
    with pytest.raises(CalibrationError, match="no such file"):
        data_files(tmp_path / "gone")


def test_standard_input_is_read_once(stdin):
    stdin(b"a\n")
    with pytest.raises(CalibrationError, match="it is named twice"):
        CalibrationSet.from_files(["-", "-"])


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = written(tmp_path / "a.parquet", b"PAR1")
    with pytest.raises(MissingPackageError, match=r"reading a\.parquet .*fuselage\[datasets\]"):
        read(path)


# --- datasets


def test_parquet_and_arrow_are_read_by_column(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    ids = [[1, 2], [3], None]
    table = pa.table({"text": ["a", " ", "c"], "n": [1, 2, 3], "input_ids": ids})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ["a.parquet", "stream.arrow", "file.arrow"]:
        assert read(tmp_path / name) == ["a", None, "c"]
        assert read(tmp_path / name, "input_ids") == [TokenIds((1, 2)), TokenIds((3,)), None]
        with pytest.raises(CalibrationError, match="no column 'x'; its columns are 'text', 'n'"):
            read(tmp_path / name, "x")
        with pytest.raises(CalibrationError, match=f"{name}: row 1: expected a text, .* got int"):
            read(tmp_path / name, "n")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_damaged_datasets_are_one_message(tmp_path, name):
    pytest.importorskip("pyarrow")
    for content in [b"", b"PAR1 nothing of the kind", b"ARROW1\0\0 and then nothing"]:
        with pytest.raises(CalibrationError, match=rf"{name}: expected a \.\w+ file, got"):
            read(written(tmp_path / name, content))
