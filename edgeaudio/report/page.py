"""One self-contained HTML page: no script, no request, readable on a phone and on paper, escaped throughout.

`page.html.j2` is its frame, `parts.html.j2` what several pages have, `page.css` how they look.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from edgeaudio.errors import UnsupportedError
from edgeaudio.report import words
from edgeaudio.spec.text import printable

_HERE = resources.files("edgeaudio.report")


@dataclass(frozen=True)
class Panel:
    """One figure: trusted SVG made here, and its caption as plain text. `wide`: as wide as the page."""

    svg: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Tile:
    """A figure for the head of the page."""

    value: str
    label: str
    detail: str = ""


def require_packages() -> None:
    """Raise UnsupportedError where pages cannot be made: says what to install."""
    for name in ("jinja2", "markupsafe", "matplotlib"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UnsupportedError(f"pages need {name}: pip install 'edgeaudio[report]'") from error


def render_page(template: Traversable, context: dict[str, Any]) -> str:
    """`template`, which extends `page.html.j2`, as text. Equal contexts give equal text."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def load(name: str) -> str:
        return _HERE.joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(load),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: tuple[Callable[..., str], ...] = (words.count, words.kib, words.percent, words.plain)
    environment.filters |= {filter.__name__: filter for filter in filters}
    # Markup marks what was made here and holds no text of others unescaped: our style sheet and our figures.
    css = Markup(load("page.css"))
    return environment.from_string(template.read_text(encoding="utf-8")).render(css=css, **context)


def _visible(value: Any) -> Any:
    """Text of others without what cannot be seen but acts; what is marked as ours stays as it is."""
    if type(value) is not str or value.isprintable():
        return value
    return "\n".join(printable(line, 10_000) for line in value.split("\n"))


def shown(panels: Iterable[Panel]) -> list[dict[str, Any]]:
    """Figures for a template: their SVG is ours and goes in as it is."""
    from markupsafe import Markup

    return [{"svg": Markup(panel.svg), "caption": panel.caption, "wide": panel.wide} for panel in panels]
