"""The server's page in a real browser: an answer fills in, every thread at its place; nothing comes from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from transformers import PreTrainedModel

from medusa_apar.serving.engines.orchestrator import Orchestrator
from medusa_apar.serving.http.server import create_app
from medusa_apar.serving.served_model import ServedModel

from .http_server import running
from .oracle_engine import OracleEngine

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

QUESTION = "w17 w9 w8 w33 w60"


@pytest.fixture
def address(backbone: PreTrainedModel, served: ServedModel) -> Iterator[str]:
    engine = OracleEngine(backbone, pause=0.1)
    with running(create_app(Orchestrator(engine, served), served)) as address:
        yield address + "/"


def asked(page: Page, address: str) -> None:
    page.goto(address)
    page.locator("#question").fill(QUESTION)
    page.locator("#send").click()


def test_threads_write_at_their_places_at_the_same_time(browser: Browser, address: str) -> None:
    page = browser.new_page()
    asked(page, address)
    found = page.wait_for_function(
        "() => { const now = [...document.querySelectorAll('.piece.running')].map(piece => piece.dataset.thread);"
        " return now.length > 1 && now; }"
    )
    running_threads = found.json_value()
    assert len(set(running_threads)) == len(running_threads) >= 2
    assert int(page.locator("#running").inner_text()) >= 1
    page.wait_for_function("document.querySelectorAll('.piece').length && !document.querySelector('.piece.running')")
    assert int(page.locator("#threads").inner_text()) >= 2
    assert page.locator("#answer").inner_text().strip().startswith("w")
    assert page.locator("#error").inner_text() == ""


def test_nothing_comes_from_outside_and_nothing_fails(browser: Browser, address: str) -> None:
    page = browser.new_page()
    requests: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("console", lambda message: failed.append(message.text) if message.type == "error" else None)
    asked(page, address)
    page.locator(".piece:not(:empty)").first.wait_for()
    assert requests == [address, address + "threads"]
    assert failed == []


def test_an_error_is_shown_and_a_key_is_asked_for(
    browser: Browser, backbone: PreTrainedModel, served: ServedModel
) -> None:
    app = create_app(Orchestrator(OracleEngine(backbone), served), served, api_keys=["secret"])
    with running(app) as address:
        page = browser.new_page()
        asked(page, address)
        page.locator("#key").wait_for()
        assert "API key" in page.locator("#error").inner_text()
        page.locator("#key").fill("secret")
        page.locator("#send").click()
        page.locator(".piece:not(:empty)").first.wait_for()
        assert page.locator("#error").inner_text() == ""


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_phones_and_desktops_in_both_schemes(browser: Browser, address: str, width: int, scheme: Any) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
