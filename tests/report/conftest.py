"""A browser, and pages opened in it from disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, sync_playwright


class Opened(NamedTuple):
    """A page, what its console said, and what it asked a network for."""

    page: Page
    problems: list[str]

    def at(self, script: str, argument: object = None) -> object:
        """Run JavaScript in the page, after what was asked of it has been drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self.page.evaluate(script, argument)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def open_page(browser: Browser) -> Callable[..., Opened]:
    """Open a page from disk and write down whatever goes wrong in it."""

    def open_page(path: Path, *, width: int = 1280) -> Opened:
        page = browser.new_page(viewport={"width": width, "height": 900})
        problems: list[str] = []
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
        page.on(
            "request", lambda request: request.url.startswith(("file:", "data:")) or problems.append(request.url)
        )
        page.goto(path.as_uri())
        page.wait_for_function("performance.getEntriesByName('drawn').length")
        return Opened(page, problems)

    return open_page
