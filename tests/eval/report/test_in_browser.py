"""The page in a real browser: it renders, its texts can be unfolded, and nothing is fetched from outside."""

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
    serving_folder: Path,
    tmp_path: Path,
) -> str:
    out = tmp_path / "report"
    folders = [speed_folder, quality_folder, batch_folder, serving_folder]
    assert main(["report", *map(str, folders), "--output_dir", str(out)]) == 0
    return (out / "index.html").as_uri()


def test_what_a_thread_wrote_can_be_unfolded(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    text = page.get_by_text("details of the first & only fork")
    assert not text.is_visible()
    page.get_by_text("What each thread wrote").click()
    assert text.is_visible()


def test_pictures_are_drawn_and_named(browser: Browser, address: str) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.goto(address)
    pictures = page.locator("figure[role=img]")
    assert pictures.count() == 6
    for picture in pictures.all():
        assert picture.get_attribute("aria-label")
        box = picture.locator("svg").bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100
    assert page.locator("svg use").last.bounding_box()["height"] > 0, "the picture finds its dots inside the page"


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
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "tables and pictures scroll by themselves"
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 252)"
    assert light == (scheme == "light")
    ink = page.locator("figure text").first.evaluate("text => getComputedStyle(text).fill")
    assert ink == ("rgb(102, 112, 122)" if light else "rgb(151, 161, 170)"), "pictures follow the scheme"
