"""Matplotlib figures as inline SVG that follows the page: its colours, its font, its light and dark form.

Figures are drawn in stand-in colours; each is replaced by a CSS variable of the page's style sheet.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

# Stand-in colour -> CSS. Near-blacks that no figure would choose by itself.
INK, MUTED, GRID, SURFACE = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010105", "#010106", "#010107", "#010108", "#010109", "#01010a")
_CSS = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", SURFACE: "var(--surface)"}
_CSS |= {colour: f"var(--s{number})" for number, colour in enumerate(SERIES, 1)}
_COLOUR = re.compile("|".join(_CSS))
_FONT_FAMILY = re.compile(r"font-family:[^;]*;? ?")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # A label may hold a dollar sign.
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.use": True,
}


@contextmanager
def plot_style() -> Iterator[None]:
    """The look of all figures; global settings come back afterwards."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width_in: float, height_in: float) -> Any:
    """A figure that belongs to no window system and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasAgg(figure)
    return figure


def plain_log_ticks(axis: Any, span: float) -> None:
    """Ticks in plain numbers on a logarithmic `axis` whose ends are `span` apart: no more than have room."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if span < 300 else (1.0, 3.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def figure_svg(figure: Any, *, name: str, description: str) -> str:
    """The figure as one `<svg>` element.

    Args:
        name: unique on the page: leads all ids inside.
        description: what a reader who cannot see the figure is told.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    # Our own output a moment ago: nothing hostile can be in this document but text, which is escaped.
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # A style element inside would reach the whole page.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _rewrite(element, name)
    del root.attrib["width"], root.attrib["height"]
    root.attrib |= {"role": "img", "aria-label": description, "class": "figure"}
    return ElementTree.tostring(root, encoding="unicode")


def _rewrite(element: ElementTree.Element, name: str) -> None:
    """Make ids unique, colours variable and attributes plain HTML."""
    element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.attrib[key] = f"{name}-{value}"
        elif key == f"{{{_XLINK}}}href":
            del element.attrib[key]
            element.attrib["href"] = f"#{name}-{value[1:]}" if value.startswith("#") else value
        elif key in ("style", "clip-path", "fill", "stroke"):
            value = _COLOUR.sub(lambda match: _CSS[match.group()], value)
            value = _FONT_FAMILY.sub("", value)
            element.attrib[key] = _REFERENCE.sub(rf"url(#{name}-\1)", value)
