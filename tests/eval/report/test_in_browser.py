"""The page in a real browser: it renders, its timeline can be chosen from, and nothing is fetched from outside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medusa_apar.eval.cli import main

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture
def address(
    speed_folder: Path,
    quality_folder: Path,
    batch_folder: Path,
    scaling_folder: Path,
    serving_folder: Path,
    tmp_path: Path,
) -> str:
    out = tmp_path / "report"
    folders = [speed_folder, quality_folder, batch_folder, scaling_folder, serving_folder]
    assert main(["report", *map(str, folders), "--output_dir", str(out)]) == 0
    return (out / "index.html").as_uri()


def test_a_chosen_thread_shows_what_it_wrote(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    text = page.locator("figure.timeline .text")
    assert text.inner_text() == "Here are <three> colours"
    page.locator(".thread").nth(1).click()
    assert text.inner_text() == "details of the first & only fork"
    page.locator(".thread").nth(0).focus()
    page.keyboard.press("Enter")
    assert text.inner_text() == "Here are <three> colours"


def test_nothing_is_fetched_and_nothing_fails(browser: Browser, address: str) -> None:
    page = browser.new_page()
    asked: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("console", lambda message: failed.append(message.text) if message.type == "error" else None)
    page.goto(address, wait_until="networkidle")
    assert asked == [address]
    assert failed == []


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_phones_and_desktops_in_both_schemes(browser: Browser, address: str, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "tables scroll by themselves"
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 252)"
    assert light == (scheme == "light")
    assert page.locator(".bars .bar").count() == 2 * 3
    assert page.locator(".bars .bar").first.bounding_box()["width"] > 10
