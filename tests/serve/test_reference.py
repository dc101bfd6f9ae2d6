"""The page at `/docs` in a real browser: groups, examples that are answered, the code of a request.

Needs Chromium as tests/serve/test_playground.py does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from poolrt.serve.settings import Settings

from tests.serve.chromium import Page
from tests.serve.conftest import Live, serving
from tests.serve.test_playground import CONTRAST, LEAST_CONTRAST, OVERFLOW, PHONE, texts

EMBEDDINGS = "#op-v1_embeddings"


@pytest.fixture
def page(browser: Page, embedder: Live) -> Iterator[Page]:
    browser.size(1280, 900)
    browser.prefer("light")
    browser.open("about:blank")
    browser.console.clear()
    browser.open(f"http://127.0.0.1:{embedder.port}/docs{EMBEDDINGS}")
    browser.until(f"document.querySelector('{EMBEDDINGS} .inside h3') !== null")
    yield browser
    assert browser.console == []


def test_an_example_is_answered_as_it_stands(page: Page, embedder: Live) -> None:
    body = json.loads(page.evaluate(f"document.querySelector('{EMBEDDINGS} textarea').value"))
    assert list(body) == ["model", "input"]
    assert texts(page, f"{EMBEDDINGS} th code")[:2] == ["model", "input"]
    page.click(f"{EMBEDDINGS} .go")
    page.until(f"document.querySelector('{EMBEDDINGS} .output').innerText.startsWith('200 OK')")
    shown = page.text(f"{EMBEDDINGS} .output").partition("\n")[2]
    assert json.loads(shown)["data"] == embedder.ask("/v1/embeddings", body)["data"]
    assert "/v1/embeddings: 200" in page.text("#live")
    page.click(f"{EMBEDDINGS} .fold summary")
    page.until("document.querySelectorAll('.languages button').length === 4")
    assert page.evaluate("document.querySelector('.code pre').textContent").startswith("curl '")


def test_a_route_is_found_by_the_name_of_a_field(page: Page) -> None:
    page.fill("#filter", "top_n rerank")
    page.until("!document.querySelector('#op-v1_embeddings').checkVisibility()")
    assert set(texts(page, ".route:not([hidden]) > summary > code")) == {
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
    }


def test_it_leads_to_the_playground_and_back(page: Page) -> None:
    page.click(".home")
    page.until("document.title === 'poolrt playground'")
    page.click("#docs")
    page.until("document.title === 'poolrt API' && document.querySelector('#routes h2') !== null")
    assert page.text("#routes h2") == "Embeddings"


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_it_is_readable_at_phone_width(page: Page, colours: str) -> None:
    page.size(PHONE, 740, phone=True, scale=2)
    page.prefer(colours)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE
    assert page.evaluate(OVERFLOW) == []
    worst = page.evaluate(CONTRAST)
    assert worst[0][0] >= LEAST_CONTRAST, worst


def test_the_code_of_a_server_with_a_key_names_a_variable(browser: Page, embedder: Live) -> None:
    with serving(embedder.here.registry, Settings(api_keys=("secret",))) as guarded:
        browser.size(1280, 900)
        # The browser's own prompt, answered.
        browser.open(f"http://anyone:secret@127.0.0.1:{guarded.port}/docs{EMBEDDINGS}")
        browser.until(f"document.querySelector('{EMBEDDINGS} .fold') !== null")
        browser.click(f"{EMBEDDINGS} .fold summary")
        browser.until("document.querySelector('.code pre') !== null")
        command = browser.evaluate("document.querySelector('.code pre').textContent")
        assert "$POOLRT_API_KEY" in command
        assert "secret" not in command
