"""Make the pictures of the report that README and docs/report.md show.

    python benchmarks/report_pictures.py build/minilm --evaluation accuracy.json

Needs playwright, and Chromium at $FUSELAGE_CHROMIUM (/usr/bin/chromium).
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import fuselage

DOCS = Path(__file__).resolve().parent.parent / "docs"
KINDS = ("comparison", "evaluation", "benchmark", "cost_model")
WIDTH = 1280
COLOURS = 96
"""Of the palette: flat colours need no more, and the file is a third."""

# File, colours, first and last element that it shows.
PICTURES = (
    ("report.png", "light", ".masthead", ".open"),
    ("report_dark.png", "dark", "#precision", "#calibration .pictures"),
)
MARGIN = 24


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, default=DOCS)
    for kind in KINDS:
        parser.add_argument(f"--{kind.replace('_', '-')}", dest=kind, type=Path)
    asked = parser.parse_args()
    documents = {kind: getattr(asked, kind) for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        page = fuselage.report(asked.bundle, out=Path(folder) / "report.html", **documents)
        for name, scheme, data in shoot(page):
            path = asked.out / name
            path.write_bytes(smaller(data))
            print(f"{path}: {scheme}, {path.stat().st_size:,} bytes")


def shoot(page: Path) -> list[tuple[str, str, bytes]]:
    """Name, colours and PNG of every picture."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("FUSELAGE_CHROMIUM", "/usr/bin/chromium")
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, scheme, first, last in PICTURES:
            context = browser.new_context(
                viewport={"width": WIDTH, "height": 900},
                color_scheme=scheme,
                device_scale_factor=1.5,
            )
            sheet = context.new_page()
            sheet.goto(page.resolve().as_uri())
            found.append((name, scheme, clipped(sheet, first, last)))
            context.close()
        browser.close()
    return found


def clipped(sheet: Any, first: str, last: str) -> bytes:
    """The page from one element to another, at its whole width."""
    top, bottom = (sheet.locator(selector).first.bounding_box() for selector in (first, last))
    start = max(0, top["y"] - MARGIN)
    area = {
        "x": 0,
        "y": start,
        "width": WIDTH,
        "height": bottom["y"] + bottom["height"] + MARGIN - start,
    }
    picture: bytes = sheet.screenshot(full_page=True, clip=area)
    return picture


def smaller(data: bytes) -> bytes:
    """The same picture with a palette."""
    from PIL import Image

    picture = Image.open(io.BytesIO(data)).convert("RGB")
    written = io.BytesIO()
    few = picture.quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(written, format="PNG", optimize=True)
    return written.getvalue()


if __name__ == "__main__":
    main()
