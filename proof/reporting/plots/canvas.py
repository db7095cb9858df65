"""matplotlib to SVG inside a page: text stays text, and colours are the page's own.

Each colour of the page has a sentinel that no plot would choose; in the SVG it becomes a CSS
variable, so that one drawing serves light and dark.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup

from ....errors import MissingPackageError

NAMES = ("ink", "soft", "grid", "paper", "c1", "c2", "c3", "c4", "c5", "c6", "n1", "n2")
_SENTINEL = {name: f"#0102{index + 16:02x}" for index, name in enumerate(NAMES)}
_FONT = "DejaVu Sans"
_INCH = 72.0
HALF = 390.0
"""Width of a figure in px: two stand side by side, and one on a phone stays readable."""


def colour(name: str) -> str:
    """The sentinel of one of the page's colours."""
    return _SENTINEL[name]


@contextmanager
def figure(width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """A figure with one plain pair of axes.

    Args:
        width: of the figure, in px.
        height: of the figure, in px.

    Raises:
        MissingPackageError: when matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib", "proof", "the report") from error
    with mpl.rc_context(_style()):
        drawing = Figure(figsize=(width / _INCH, height / _INCH), layout="constrained")
        axes = drawing.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        yield drawing, axes


def to_svg(drawing: Any, *, key: str, title: str, description: str) -> Markup:
    """The figure as an ``<svg>`` element.

    Args:
        drawing: of `figure`.
        key: unique in the page; its ids begin with it.
        title: for screen readers.
        description: what it shows, for those who cannot see it.
    """
    import matplotlib as mpl

    file = io.StringIO()
    style = {**_style(), "svg.fonttype": "none", "svg.hashsalt": key}
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's font draws
        drawing.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # A style element inside an SVG would hold for the whole page.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", text)
    for name, sentinel in _SENTINEL.items():
        text = text.replace(sentinel, f"var(--{name})")
    text = re.sub(r" ?font-family: [^;\"]+;?", "", text)
    text = re.sub(r"\n\s*", "\n", text)
    _, _, body = text.partition(">")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    width, height = (float(size[1]), float(size[2])) if size else (HALF, HALF)
    head = Markup(
        '<svg class="plot" viewBox="0 0 {:g} {:g}" style="--w:{:g}px" role="img" '
        'aria-labelledby="{}-t {}-d" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink"><title id="{}-t">{}</title>'
        '<desc id="{}-d">{}</desc>'
    ).format(width, height, width, key, key, key, title, key, description)
    return head + Markup(body)


def _style() -> dict[str, Any]:
    ink, soft, grid = colour("ink"), colour("soft"), colour("grid")
    return {
        "font.family": [_FONT],
        "font.size": 11.5,
        "text.color": ink,
        "axes.labelcolor": soft,
        "axes.edgecolor": grid,
        "axes.facecolor": "none",
        "axes.linewidth": 1.0,
        "axes.titlesize": 11.5,
        "axes.titlelocation": "left",
        "axes.axisbelow": True,
        "axes.grid": False,
        "grid.color": grid,
        "grid.linewidth": 0.8,
        "xtick.color": grid,
        "ytick.color": grid,
        "xtick.labelcolor": soft,
        "ytick.labelcolor": soft,
        "xtick.major.size": 3.0,
        "ytick.major.size": 0.0,
        "xtick.minor.size": 0.0,
        "ytick.minor.size": 0.0,
        "svg.fonttype": "none",
        "text.parse_math": False,
        "axes.unicode_minus": True,
    }
