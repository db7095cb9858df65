"""The report in Chromium: drawn, readable, quiet, and without the network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fuselage.proof.reporting.make import ReportRequest, make_report

from .conftest import Write
from .conftest import make_report as report_of

CHROMIUM = Path(os.environ.get("FUSELAGE_CHROMIUM", "/usr/bin/chromium"))
REQUIRED = os.environ.get("FUSELAGE_REQUIRE_CHROMIUM") == "1"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}

# Every visible text with its colour, what lies behind it, and its size. A canvas turns any CSS
# colour into bytes; what is half transparent is laid over what is behind.
TEXTS = """
() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const bytes = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const over = (top, below) => {
    const alpha = top[3] / 255;
    return below.map((value, index) => index < 3 ? top[index] * alpha + value * (1 - alpha) : 255);
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      layers.push(bytes(getComputedStyle(at).backgroundColor));
    }
    let colour = [255, 255, 255, 255];
    for (const layer of layers.reverse()) colour = over(layer, colour);
    const box = element.previousElementSibling?.closest("rect") ||
      element.previousElementSibling?.previousElementSibling?.closest("rect");
    if (element.closest("svg.diagram") && box && !element.classList.contains("end")) {
      const fill = getComputedStyle(box).fill;
      if (fill !== "none") colour = over(bytes(fill), colour);
    }
    return colour;
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((value) => {
      const c = value / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    const text = node.textContent.trim();
    if (!text || element.closest("script, style, title, desc, .skip, .unseen")) continue;
    if (!element.checkVisibility({ contentVisibilityAuto: true, opacityProperty: true })) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const colour = over(bytes(element.closest("svg") ? style.fill : style.color), ground);
    const [a, b] = [light(colour), light(ground)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    found.push({ text: text.slice(0, 40), ratio: (a + 0.05) / (b + 0.05), large });
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api") if not REQUIRED else None
    if api is None:
        from playwright import sync_api as api
    if not CHROMIUM.exists():
        assert not REQUIRED, f"no Chromium at {CHROMIUM}"
        pytest.skip(f"no Chromium at {CHROMIUM}; FUSELAGE_CHROMIUM names another")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["one", "two"])
def report(
    request: pytest.FixtureRequest,
    bundle: Path,
    write_bundle: Write,
    document_files: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    bundles = (bundle,)
    if request.param == "two":
        other = report_of()
        other["verification"]["passed"] = False
        other["quantization"]["edges"][0]["noise_share"] = 0.9999
        bundles = (bundle, write_bundle(other))
    make_report(ReportRequest(bundles=bundles, out=out, documents=document_files, run=False))
    return out


class Visit:
    """A page that is open, and what it did meanwhile."""

    def __init__(self, browser: Any, report: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(report.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def open_all(page: Any) -> None:
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")


def test_it_says_and_asks_nothing(browser: Any, report: Path) -> None:
    with Visit(browser, report, viewport=DESK) as visit:
        open_all(visit.page)
        visit.page.wait_for_timeout(100)
        assert visit.said == []
        assert [url for url in visit.asked if not url.startswith("data:")] == [report.as_uri()]


def test_every_picture_is_drawn(browser: Any, report: Path) -> None:
    with Visit(browser, report, viewport=DESK) as visit:
        sizes = visit.page.evaluate(
            """() => [...document.querySelectorAll("svg[role=img]")].map((svg) => {
                 const outer = svg.getBoundingClientRect();
                 const all = [...svg.querySelectorAll("path, rect, text, use")];
                 const shapes = all.filter((shape) => {
                   const box = shape.getBoundingClientRect();
                   return box.width > 0 || box.height > 0;
                 });
                 return [outer.width, outer.height, shapes.length];
               })"""
        )
        assert len(sizes) >= 10
        assert all(width > 100 and height > 20 and shapes > 5 for width, height, shapes in sizes)


def test_links_inside_lead_to_what_is_shown(browser: Any, report: Path) -> None:
    with Visit(browser, report, viewport=DESK, reduced_motion="reduce") as visit:
        links = visit.page.locator("nav a")
        assert links.count() >= 10
        for index in range(links.count()):
            links.nth(index).click()
            target = links.nth(index).get_attribute("href")
            assert visit.page.locator(f"section{target}").is_visible()
            assert visit.page.evaluate("location.hash") == target
        assert visit.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast_is_aa(browser: Any, report: Path, scheme: str) -> None:
    with Visit(browser, report, viewport=DESK, color_scheme=scheme) as visit:
        open_all(visit.page)
        texts = visit.page.evaluate(TEXTS)
        assert len(texts) > 400
        weak = [one for one in texts if one["ratio"] < (3 if one["large"] else 4.5)]
        assert weak == []


@pytest.mark.parametrize("is_open", [False, True])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, report: Path, is_open: bool) -> None:
    with Visit(browser, report, viewport=PHONE) as visit:
        if is_open:
            open_all(visit.page)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 360
        outside = visit.page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter((element) => {
                 const box = element.getBoundingClientRect();
                 const may = element.closest(".scroll, .unseen, .skip, svg");
                 return box.right > 361 && box.width && !may;
               }).map((element) => element.tagName + " " + element.className)"""
        )
        assert outside == []


def test_colours_change_by_hand_and_nothing_is_stored(browser: Any, report: Path) -> None:
    with Visit(browser, report, viewport=DESK, color_scheme="light") as visit:
        paper = "getComputedStyle(document.body).backgroundColor"
        light = visit.page.evaluate(paper)
        visit.page.get_by_text("Dark", exact=True).click()
        dark = visit.page.evaluate(paper)
        assert light != dark
        visit.page.get_by_text("Auto", exact=True).click()
        assert visit.page.evaluate(paper) == light
        assert visit.context.cookies() == []
        assert visit.page.evaluate("localStorage.length + sessionStorage.length") == 0


def test_a_click_on_a_heading_sorts(browser: Any, report: Path) -> None:
    with Visit(browser, report, viewport=DESK) as visit:
        open_all(visit.page)
        table = visit.page.locator("table[data-sortable]", has_text="share of error").first
        heading = table.locator("th", has_text="share of error")
        column = "(rows) => rows.map((row) => row.cells[7].textContent)"
        rows = table.locator("tbody tr")
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == "descending"
        shares = [_share(text) for text in rows.evaluate_all(column)]
        assert shares == sorted(shares, reverse=True)
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == "ascending"
        assert [_share(text) for text in rows.evaluate_all(column)] == sorted(shares)


def test_units_and_powers_of_ten_count_in_sorting(browser: Any, report: Path) -> None:
    with Visit(browser, report, viewport=DESK) as visit:
        table = visit.page.locator("table[data-sortable]", has_text="of the roof").first
        table.locator("th", has_text="time").get_by_role("button").click()
        names = table.locator("tbody th").all_text_contents()
        assert names == ["MatMul [4, 8]", "Add"]  # 8 ms before 900 µs
        texts = ["1.2×10⁻⁷", "3.0×10⁹", "−5", "< 0.001 %", "18,644", "40.0 MB", "900 µs"]
        found = visit.page.evaluate("(texts) => texts.map(amount)", texts)
        assert found == pytest.approx([1.2e-7, 3e9, -5, 0.001, 18_644, 4e7, 9e-4])


def _share(text: str) -> float:
    return float("-inf") if text == "–" else float(text.split("\N{NO-BREAK SPACE}")[0])


def test_everything_can_be_read_without_scripts(browser: Any, report: Path) -> None:
    with Visit(browser, report, viewport=DESK, java_script_enabled=False) as visit:
        summary = visit.page.locator("summary", has_text="Every activation").first
        summary.click()
        assert visit.page.locator("caption", has_text="Every activation").first.is_visible()
        assert visit.page.locator("h1").is_visible()


def test_keyboards_reach_the_verdict_first(browser: Any, report: Path) -> None:
    with Visit(browser, report, viewport=DESK) as visit:
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement.className") == "skip"
        unnamed = visit.page.evaluate(
            """() => [
                 ...document.querySelectorAll("[tabindex='0'], button, summary, input")
               ].filter((element) => !(element.getAttribute("aria-label") ||
                   element.textContent.trim() || element.closest("label"))).length"""
        )
        assert unnamed == 0


def test_it_prints(browser: Any, report: Path) -> None:
    with Visit(browser, report, viewport=DESK, color_scheme="dark") as visit:
        printed = visit.page.pdf(prefer_css_page_size=True)
        assert printed.startswith(b"%PDF")
        assert 4 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 25
        visit.page.emulate_media(media="print")
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        assert not visit.page.locator("nav.toc").is_visible()
