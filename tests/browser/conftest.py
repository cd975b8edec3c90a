"""Headless Chromium on the pages of a running `turbosparse serve`. What is missing fails the tests."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect_service import Served, serve

CHROMIUM = Path("/usr/bin/chromium")
WIDTH, HEIGHT = 1400, 1800
PATIENCE_MS = 120_000
SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"


@pytest.fixture(scope="session")
def service(tmp_path_factory) -> Iterator[Served]:
    """A service for all browser tests."""
    with serve(tmp_path_factory.mktemp("browser")) as served:
        yield served


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium."""
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415 - no other test needs it

    assert CHROMIUM.exists(), "browser tests need Chromium: apt-get install chromium"
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@pytest.fixture
def page(browser, service):
    """A page that can reach nothing but the service."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    local = urlsplit(service.url).netloc
    page.route(
        "**/*",
        lambda route: route.continue_() if urlsplit(route.request.url).netloc == local else route.abort(),
    )
    page.set_default_timeout(PATIENCE_MS)
    yield page
    page.close()


@pytest.fixture
def shot(page, request):
    """Takes a screenshot of what is seen now."""

    def take(name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(700)
        page.screenshot(path=SCREENSHOTS / f"{request.node.name}-{name}.png")

    return take
