"""The whole page: sound HTML, nothing that could run, and the data inside."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fuselage.errors import BundleError, FuselageError
from fuselage.proof.reporting.bundle_facts import BundleFacts
from fuselage.proof.reporting.documents import read_documents
from fuselage.proof.reporting.make import ReportRequest, make_report
from fuselage.proof.reporting.page import render_page, script_json, within

from .conftest import Write
from .conftest import make_report as report_of

VOID = {"meta", "link", "br", "input", "hr", "img", "wbr"}
EVIL = "acme/<script>alert(1)</script>\"'&amp;"


class Checked(HTMLParser):
    """Holds a page to what every browser agrees on."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: dict[str, int] = {}
        self.faults: list[str] = []
        self.handlers: list[str] = []
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.faults.append(f"<{tag}> repeats an attribute")
        for name, value in attrs:
            self._look(tag, name, value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def _look(self, tag: str, name: str, value: str) -> None:
        if name == "id":
            self.ids.append(value)
        if name in ("href", "xlink:href"):
            self.links.append(value)
        if name.startswith("on"):
            self.handlers.append(f"{tag} {name}")
        if name in ("src", "srcset", "action", "data"):
            self.urls.append(value)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()


def checked(text: str) -> Checked:
    page = Checked()
    page.feed(text)
    page.close()
    return page


@pytest.fixture(scope="module")
def page(bundle: Path, document_files: dict[str, Path]) -> str:
    return render_page([BundleFacts.read(bundle)], read_documents(document_files))


def embedded(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_is_sound(page: str) -> None:
    found = checked(page)
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert found.faults == []
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert found.tags["h1"] == 1
    assert found.tags["main"] == 1
    assert found.tags["style"] == 1


def test_links_lead_somewhere_inside(page: str) -> None:
    found = checked(page)
    inner = [link[1:] for link in found.links if link.startswith("#")]
    assert len(inner) >= 10
    assert set(inner) <= set(found.ids)
    assert {link for link in found.links if not link.startswith("#")} == {"data:,"}
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(found.ids)


def test_nothing_comes_from_elsewhere(page: str) -> None:
    found = checked(page)
    assert found.urls == []
    assert found.handlers == []
    assert "@import" not in page
    assert set(re.findall(r"https?://[^\"' <)]*", page)) <= {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink",
    }  # fmt: skip


def test_every_picture_has_a_name_and_a_description(page: str) -> None:
    pictures = re.findall(r"<svg[^>]*role=\"img\"[^>]*>", page)
    assert len(pictures) >= 9
    ids = set(checked(page).ids)
    for picture in pictures:
        labels = re.search(r'aria-labelledby="([^"]*)"', picture)
        assert labels is not None
        assert set(labels[1].split()) <= ids


def test_text_in_plots_stays_text_and_colours_are_the_page_s(page: str) -> None:
    assert "<text" in page
    assert "DejaVu" not in page
    assert "#0102" not in page
    assert "var(--c1)" in page


def test_numbers_stand_where_they_belong(page: str) -> None:
    text = re.sub(r"<[^>]*>", "", page[: page.index('id="data"')])
    for said in (
        "It answers like the model on ort-cpu",
        "11 of 12 linear layers quantised",
        "Found nothing to do: clean-up",
        "its scale is no constant",
        "gemm_1",
        "fuselage build acme/tiny",
    ):
        assert said in text, said


def test_the_data_is_inside(page: str) -> None:
    data = embedded(page)
    assert data["kind"] == "report"
    assert data["bundles"][0]["report"]["model"]["id"] == "acme/tiny"
    assert set(data["documents"]) == {"comparison", "evaluation", "benchmark", "cost-model"}


def test_what_others_wrote_is_never_markup(write_bundle: Write) -> None:
    report = report_of()
    attack = "</script><script>alert(2)</script><img src=x onerror=alert(3)>"
    report["quantization"]["edges"][0]["outlier"]["token"] = attack
    report["quantization"]["edges"][0]["linears"][0] = f"encoder.layer.0.{attack}/MatMul"
    report["fusion"]["attention"]["refusals"][0]["reason"] = attack
    report["notes"].append("</style>" + attack)
    text = render_page([BundleFacts.read(write_bundle(report, model_id=EVIL))], read_documents({}))
    found = checked(text)
    assert found.faults == []
    assert found.tags["script"] == 2
    assert found.tags.get("img", 0) == 0
    assert found.handlers == []
    assert "<script>alert" not in text
    assert embedded(text)["bundles"][0]["manifest"]["model"]["id"] == EVIL
    assert embedded(text)["bundles"][0]["report"]["notes"][-1] == "</style>" + attack


def test_json_cannot_end_its_element() -> None:
    text = script_json({"a": "</script><!--<script>&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--<script>&\u2028"}


def test_data_that_is_too_large_for_a_page_leaves_a_line() -> None:
    data = {
        "bundles": [{"engines": {"a": {"x": "y" * 500}, "b": {"x": 1}}}],
        "documents": {"cost-model": {"nodes": ["n"] * 900}, "evaluation": {"z": 1}},
    }
    assert within(data, 10_000) == data
    kept = within(data, 1000)
    assert kept["documents"]["cost-model"].startswith("left out of the page: ")
    assert kept["bundles"][0]["engines"]["a"] == {"x": "y" * 500}
    assert len(json.dumps(within(data, 300))) < 500
    assert isinstance(data["documents"]["cost-model"], dict)


def test_letters_of_all_scripts_need_no_font(write_bundle: Write) -> None:
    report = report_of()
    report["quantization"]["edges"][0]["linears"] = ["encoder.layer.0.注意力/MatMul"]
    text = render_page([BundleFacts.read(write_bundle(report, "模型/тест"))], read_documents({}))
    assert "注意力" in text
    assert "<h1" in text


def test_two_bundles(bundle: Path, write_bundle: Write) -> None:
    report = report_of()
    report["quantization"] = None
    bundles = [BundleFacts.read(bundle, "A"), BundleFacts.read(write_bundle(report), "B")]
    found = checked(render_page(bundles, read_documents({})))
    assert found.faults == []
    assert len(found.ids) == len(set(found.ids))
    assert "differences" in found.ids


def test_equal_facts_give_equal_pages(bundle: Path) -> None:
    texts = {render_page([BundleFacts.read(bundle)], read_documents({})) for _ in range(2)}
    assert len(texts) == 1


def test_missing_documents_name_the_command(bundle: Path) -> None:
    text = render_page([BundleFacts.read(bundle)], read_documents({}))
    plain = re.sub(r"<[^>]*>", "", text)
    assert f"fuselage bench {bundle} --out benchmark.json" in plain
    assert f"fuselage compare torch:acme/tiny bundle:{bundle} --out comparison.json" in plain


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON, got"), ("[]", "expected a JSON object, got list"),
        ('{"schema": 1, "kind": "benchmark"}', "of kind 'comparison', got 'bench"),
        ('{"schema": 9, "kind": "comparison"}', "expected schema 1, got 9"),
        ("[" * 100_000, "expected JSON, got"), ('{"schema": 1}', "got None"),
    ],
)  # fmt: skip
def test_a_malformed_document_is_one_message(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(FuselageError, match=re.escape(message)) as caught:
        read_documents({"comparison": path})
    assert str(caught.value).startswith(f"{path}: ")
    assert "make one with: fuselage compare" in str(caught.value)


def test_a_document_that_says_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text('{"schema": 1, "kind": "comparison", "reference": "r", "candidates": []}')
    with pytest.raises(FuselageError, match="expected 'candidates' in it, got none; make one with"):
        read_documents({"comparison": path})


def test_a_damaged_bundle_gets_no_report(write_bundle: Write, tmp_path: Path) -> None:
    bundle, out = write_bundle(), tmp_path / "report.html"
    graph = bundle / "graph" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)
    with pytest.raises(BundleError, match=r"graph/model\.onnx: sha256 is"):
        make_report(ReportRequest(bundles=(bundle,), out=out, run=False))
    assert not out.exists()


def test_a_missing_document_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(FuselageError, match="found no file; make one with: fuselage bench"):
        read_documents({"benchmark": tmp_path / "none.json"})


def test_a_wrong_value_inside_names_its_place(
    bundle: Path, tmp_path: Path, document_files: dict[str, Path]
) -> None:
    content = json.loads(document_files["evaluation"].read_bytes())
    content["candidates"][0]["metrics"][0]["drop"] = "much"
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(content))
    out = tmp_path / "r.html"
    request = ReportRequest(bundles=(bundle,), out=out, documents={"evaluation": path}, run=False)
    where = r"evaluation\.json: candidates\[0\]: metrics\[0\]: expected a number for 'drop'"
    with pytest.raises(FuselageError, match=where):
        make_report(request)
    assert list(tmp_path.glob("*.html*")) == []


def test_keys_that_are_not_known_do_no_harm(
    bundle: Path, tmp_path: Path, document_files: dict[str, Path]
) -> None:
    content = json.loads(document_files["benchmark"].read_bytes())
    content["novel"] = {"a": [1]}
    del content["works"][0]["candidates"]["torch-eager"]["cdf_ms"]
    del content["memory"]
    path = tmp_path / "b.json"
    path.write_text(json.dumps(content))
    text = render_page([BundleFacts.read(bundle)], read_documents({"benchmark": path}))
    assert "torch-eager" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("manifest.json", "ends in .html"),
        ("none/r.html", "there is no folder"),
        ("d.html", "folder"),
    ],
)
def test_where_a_report_cannot_go(bundle: Path, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "d.html").mkdir()
    request = ReportRequest(bundles=(bundle,), out=tmp_path / name, run=False)
    with pytest.raises(FuselageError, match=message):
        make_report(request)


def test_it_is_one_small_file(
    bundle: Path, tmp_path: Path, document_files: dict[str, Path]
) -> None:
    out = tmp_path / "r.html"
    made = make_report(
        ReportRequest(bundles=(bundle,), out=out, documents=document_files, run=False)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
    assert made.bytes == out.stat().st_size < 3_000_000
    assert made.data == embedded(out.read_text("utf-8"))
