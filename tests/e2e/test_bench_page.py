"""The page of a benchmark in a real browser: readable in both colours, on a phone and on paper; nothing runs in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeaudio.report.bench import write_bench_files
from tests import bench_records as records
from tests.browser import DESKTOP, PHONE, TABLET, Tab

HOSTILE = "<img src=x onerror=alert(1)>"
#: WCAG 2: of text that people are meant to read.
MIN_CONTRAST = 4.5
#: What a sheet of A4 has between its margins, in CSS pixels.
A4 = (718, 1000)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two boards, one of them throttled and with a hostile name, and an estimate."""
    hot = [
        sample.model_copy(update={"throttled_now": ("throttled",)} if sample.t_s > 4 else {})
        for sample in records.board().samples
    ]
    runs = [
        records.result(),
        records.result(
            records.artefact(HOSTILE, scale=2.0, form="foreign", seed=9),
            environment=records.environment(HOSTILE),
            board=records.board(*hot, model=HOSTILE),
        ),
        records.estimated(),
    ]
    # The one place to look at what the tests saw: EDGEAUDIO_SCREENSHOTS names a folder that stays.
    folder = os.environ.get("EDGEAUDIO_SCREENSHOTS")
    path = (Path(folder) if folder else tmp_path_factory.mktemp("page")) / "bench.html"
    write_bench_files(runs, [path])
    return path


def shot(seen: Tab, path: Path, name: str) -> Any:
    """A picture of the whole page, `(height, width, 3)`."""
    out = path.with_name(f"bench-{name}.png")
    seen.page.screenshot(path=str(out), full_page=True)
    return np.asarray(Image.open(out).convert("RGB"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_drawn_in_the_colours_of_the_system(page_path: Path, tab: Callable[..., Tab], scheme: str) -> None:
    seen = tab(DESKTOP, scheme)
    seen.open(page_path.as_uri())
    picture = shot(seen, page_path, scheme)
    assert picture.shape[1] == DESKTOP[0]
    assert picture.shape[0] > 3_000
    # Most of a page is its background.
    assert (np.median(picture) > 200) == (scheme == "light")
    # Lines and bars in their colours: each figure has more than greys.
    figures = seen.page.locator("svg.figure")
    assert figures.count() == 4 + 1 + 1 + 1 + 1
    assert all(box["width"] > 200 and box["height"] > 150 for box in map(_box, figures.all()))
    saturated = np.ptp(picture.astype(int), axis=2) > 60
    assert saturated.sum() > 20_000
    assert seen.troubles == []


def _box(element: Any) -> dict[str, float]:
    found: dict[str, float] = element.bounding_box()
    return found


def test_nothing_is_asked_for_and_nothing_runs(page_path: Path, tab: Callable[..., Tab]) -> None:
    seen = tab()
    seen.open(page_path.as_uri())
    assert seen.requested == [page_path.as_uri()]
    assert seen.page.locator("img, script").count() == 0
    assert HOSTILE in seen.texts("#boards h3")
    assert seen.troubles == []


@pytest.mark.parametrize("size", [DESKTOP, TABLET, PHONE])
def test_nothing_sticks_out(page_path: Path, tab: Callable[..., Tab], size: tuple[int, int]) -> None:
    seen = tab(size, "light")
    seen.open(page_path.as_uri())
    assert seen.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    # Wide tables scroll inside their box; figures never do.
    assert seen.page.evaluate("[...document.querySelectorAll('svg.figure')].every((e) => e.scrollWidth <= innerWidth)")
    shot(seen, page_path, f"{size[0]}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_can_be_read(page_path: Path, tab: Callable[..., Tab], scheme: str) -> None:
    seen = tab(DESKTOP, scheme)
    seen.open(page_path.as_uri())
    faint = seen.page.evaluate(
        """(wanted) => {
            const lit = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
            const light = (s) => { const [r, g, b] = s.match(/[\\d.]+/g).map(Number);
                return 0.2126 * lit(r) + 0.7152 * lit(g) + 0.0722 * lit(b); };
            const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
                if (!/, 0\\)$|transparent/.test(c)) return c; } return "rgb(255, 255, 255)"; };
            const found = [];
            for (const e of document.querySelectorAll("h1, h2, h3, p, li, th, td, dt, dd, small, span.badge")) {
                if (!e.innerText.trim()) continue;
                const a = light(getComputedStyle(e).color), b = light(behind(e));
                const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
                if (ratio < wanted) found.push([e.tagName, e.innerText.slice(0, 30), ratio]);
            }
            return found; }""",
        MIN_CONTRAST,
    )
    assert faint == []


def test_it_prints_in_black_on_white(page_path: Path, tab: Callable[..., Tab]) -> None:
    seen = tab(A4, "dark")
    seen.page.emulate_media(media="print", color_scheme="dark")
    seen.open(page_path.as_uri())
    assert seen.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    shot(seen, page_path, "print")
    assert seen.page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not seen.page.locator("nav").is_visible()
    paper = seen.page.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 40
