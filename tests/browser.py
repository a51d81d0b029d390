"""Pages as a person sees them: headless Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from typing import Any

from tests import stream_driver as driver

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DESKTOP, TABLET, PHONE = (1360, 900), (820, 1180), (390, 844)


class Tab:
    """A page in a window of its own, and all that went wrong in it."""

    def __init__(self, browser: Any, size: tuple[int, int], scheme: str) -> None:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.page = context.new_page()
        self.troubles: list[str] = []
        self.requested: list[str] = []
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", lambda message: self.troubles.append(message.text) if message.type == "error" else None)
        self.page.on("dialog", lambda dialog: (self.troubles.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requested.append(request.url))

    def open(self, url: str) -> None:
        self.page.goto(url)

    def wait(self, expression: str) -> None:
        """Until the JavaScript expression holds. (Playwright's own waiting needs the `eval` that the page forbids.)"""
        driver.eventually(lambda: self.page.evaluate(expression))

    def wait_state(self, text: str) -> None:
        self.wait(f"document.getElementById('state-text').textContent === {text!r}")

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).all_inner_texts()
        return found
