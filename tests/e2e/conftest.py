"""A browser for the tests of pages; they are skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser import CHROMIUM, DESKTOP, Tab


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with playwright.sync_playwright() as driven:
        launched = driven.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-component-update", "--disable-sync", *quiet]
        )
        yield launched
        launched.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Callable[..., Tab]]:
    tabs: list[Tab] = []

    def new(size: tuple[int, int] = DESKTOP, scheme: str = "dark") -> Tab:
        tabs.append(Tab(browser, size, scheme))
        return tabs[-1]

    yield new
    for opened in tabs:
        opened.page.context.close()
