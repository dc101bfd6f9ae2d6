"""Pictures in the playground, in a real browser: dropped, pasted, chosen, searched, and looked at.

Needs Chromium as tests/serve/test_playground.py does.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime.artifact.manifest import Role
from poolrt.runtime.loader import load

from tests.serve import page_model
from tests.serve.chromium import Page
from tests.serve.conftest import Live, live
from tests.serve.pdf_files import A4, pdf
from tests.serve.test_playground import (
    CONTRAST,
    LEAST_CONTRAST,
    OVERFLOW,
    PHONE,
    SHOWN,
    commands,
    finished,
    fresh,
    number,
    run,
    texts,
)

RED, BLUE = (1, 3), (7, 12)
PAGE = page_model.page(9, 14, red=RED, blue=BLUE)
MANY = [page_model.page(6, 6, red=(index % 6, 2)) for index in range(3)]
CHAT = "<|im_start|>user {{ messages[0].content }}<|im_end|>"
SIDES = {
    "query": Role(template="query : {{ media }}{{ text }}"),
    "document": Role(template="{{ media }}{{ text }}"),
}
PIXELS = 1.5  # of the screen: a box is drawn to the nearest


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    apart = replace(page_model.tiny.APART, shortest_edge=8)
    with ExitStack() as opened:
        models = [
            opened.enter_context(load(folder, threads=1))
            for folder in (
                page_model.write(tmp_path_factory.mktemp("late")),
                page_model.write(tmp_path_factory.mktemp("dense"), scoring="bi-encoder", name="dense"),
                page_model.write(tmp_path_factory.mktemp("cross"), scoring="cross-encoder", name="cross"),
                page_model.tiny.write(tmp_path_factory.mktemp("clip"), images=apart, name="clip"),
                page_model.tiny.write(
                    tmp_path_factory.mktemp("sided"), name="sided", chat_template=CHAT, roles=SIDES
                ),
                page_model.tiny.write(
                    tmp_path_factory.mktemp("authors"),
                    name="late-sided",
                    scoring="late-interaction",
                    roles=SIDES,
                ),
                page_model.tiny.write(tmp_path_factory.mktemp("chatty"), name="chatty", chat_template=CHAT),
            )
        ]
        yield opened.enter_context(live(*models))


@pytest.fixture
def page(browser: Page, server: Live) -> Iterator[Page]:
    browser.size(1280, 900)
    browser.prefer("light")
    fresh(browser, f"http://127.0.0.1:{server.port}")
    browser.evaluate("document.querySelector('#gallery button:last-child').click()")  # the example
    yield browser
    assert browser.console == []


def give(page: Page, kind: str, *files: tuple[str, str, bytes]) -> None:
    """Drops files (name, type, bytes) on the page, or pastes them, as a browser hands them over."""
    plain = json.dumps([[name, media, base64.b64encode(data).decode()] for name, media, data in files])
    event = {
        "drop": "new DragEvent('drop', { dataTransfer: given, bubbles: true, cancelable: true })",
        "paste": "new ClipboardEvent('paste', { clipboardData: given, bubbles: true, cancelable: true })",
    }[kind]
    page.evaluate(
        "(() => { const given = new DataTransfer(); for (const [name, type, data] of " + plain + ") "
        "given.items.add(new File([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], name, "
        f"{{ type }})); document.querySelector('#drop').dispatchEvent({event}); }})()"
    )


def document(picture: np.ndarray) -> dict[str, Any]:
    """A document of /score and /rerank that is a picture."""
    return {"content": [{"type": "image_url", "image_url": {"url": page_model.url(picture)}}]}


def drop(page: Page, *pictures: np.ndarray) -> None:
    """Drops pictures, and waits until the page knows how the model reads them."""
    before = page.evaluate("document.querySelectorAll('#gallery li').length")
    give(page, "drop", *((f"page {index}.png", "image/png", page_model.png(picture))
                         for index, picture in enumerate(pictures)))  # fmt: skip
    page.until(f"document.querySelectorAll('#gallery li').length === {before + len(pictures)}")
    known(page)


def known(page: Page) -> None:
    page.until("[...document.querySelectorAll('#gallery li small')].every((line) => /token|vector/.test(line.innerText))")  # fmt: skip  # noqa: E501


def search(page: Page, query: str | None = None) -> None:
    if query is not None:
        page.fill("#pictures-query", query)
    run(page, "pictures")


BOX = """(() => {
  const box = (selector) => document.querySelector(selector).getBoundingClientRect();
  const sheet = box('.main .sheet-of-paper'), part = box(%s);
  return [(part.left - sheet.left) / sheet.width, (part.top - sheet.top) / sheet.height,
          (part.right - sheet.left) / sheet.width, (part.bottom - sheet.top) / sheet.height];
})()"""


def box(page: Page, selector: str) -> list[float]:
    """Left, top, right and bottom of an element, as parts of the page that is looked at."""
    return page.evaluate(BOX % json.dumps(selector))


def cell(place: tuple[int, int]) -> list[float]:
    """The same of a cell of PAGE."""
    (row, column), (rows, columns) = place, (9, 14)
    return [column / columns, row / rows, (column + 1) / columns, (row + 1) / rows]


def colours(page: Page, place: tuple[int, int]) -> list[int]:
    """RGBA of the heat map in the middle of a cell of PAGE."""
    left, top, right, bottom = cell(place)
    return page.evaluate(
        "(() => { const canvas = document.querySelector('.main .overlay'), dot = new OffscreenCanvas(1, 1)"
        f".getContext('2d'); dot.drawImage(canvas, -canvas.width * {(left + right) / 2}, -canvas.height * "
        f"{(top + bottom) / 2}); return [...dot.getImageData(0, 0, 1, 1).data]; }})()"
    )


def token(page: Page, text: str) -> str:
    """A selector of a query token's button."""
    at = [label.split("\n")[0] for label in texts(page, "#heat-tokens button")].index(text)
    return f"#heat-tokens button:nth-child({at + 1})"


# Dropping, pasting, choosing, removing


def test_a_dropped_picture_shows_its_size_and_how_it_is_read(page: Page) -> None:
    drop(page, PAGE)
    assert texts(page, "#gallery li b") == ["page 0.png"]
    assert page.text("#gallery li small").split("\n") == ["112 × 72", "126 tokens, 9 × 14 patches"]
    assert page.evaluate("document.querySelector('#gallery img').naturalWidth") == 112


def test_pictures_are_pasted_chosen_and_removed(page: Page, tmp_path: Path) -> None:
    give(page, "paste", ("", "image/png", page_model.png(PAGE)))
    page.until("document.querySelectorAll('#gallery li').length === 1")
    (tmp_path / "chosen.png").write_bytes(page_model.png(MANY[0]))
    page.files("#files", tmp_path / "chosen.png")
    page.until("document.querySelectorAll('#gallery li').length === 2")
    known(page)
    assert texts(page, "#gallery li b")[1] == "chosen.png"
    page.click("#gallery li:first-child button:last-child")
    assert texts(page, "#gallery li b") == ["chosen.png"]
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove chosen.png"


def test_a_text_that_is_pasted_into_a_field_stays_a_text(page: Page) -> None:
    prevented = page.evaluate(
        "(() => { const given = new DataTransfer(); given.setData('text/plain', 'words'); const event = new "
        "ClipboardEvent('paste', { clipboardData: given, bubbles: true, cancelable: true }); "
        "document.querySelector('#pictures-query').dispatchEvent(event); return event.defaultPrevented; })()"
    )
    assert not prevented


def test_the_pages_of_a_pdf_are_drawn_by_the_server(page: Page) -> None:
    page.fill("#pages", "2-9")
    give(page, "drop", ("report.pdf", "application/pdf", pdf(A4, (842, 595), A4)))
    page.until("document.querySelectorAll('#gallery li').length === 2")
    known(page)
    page.until("document.querySelector('#progress').hidden")
    assert texts(page, "#gallery li b") == ["report.pdf, page 2 of 3", "report.pdf, page 3 of 3"]
    assert texts(page, "#gallery li small span:first-child") == ["2047 × 1447", "1447 × 2047"]


def test_a_file_that_is_neither_is_refused_in_words(page: Page) -> None:
    give(page, "drop", ("notes.txt", "text/plain", b"x"))
    page.until("document.querySelector('#answer').classList.contains('problem')")
    assert "notes.txt” is neither a picture nor a PDF" in page.text("#answer")


def test_a_picture_that_the_server_refuses_says_why_and_is_left_out(page: Page) -> None:
    drop(page, PAGE)
    broken = page_model.png(MANY[0])[:60]
    give(page, "drop", ("broken.png", "image/png", broken))
    page.until("document.querySelector('#gallery .refused') !== null")
    assert "could not be" in page.text("#gallery .refused small")
    search(page, "red")
    assert len(texts(page, "#ranking li")) == 1
    assert "1 picture that the server refuses is left out" in page.text("#answer .note:last-child")
    assert len(page.console) == 1, "the browser itself notes a 400"
    page.console.clear()


# Search


def test_the_tab_opens_with_a_search_in_the_sample_page(page: Page, server: Live) -> None:
    fresh(page, f"http://127.0.0.1:{server.port}")
    finished(page)
    assert texts(page, "#ranking .what") == ["Sample page"]
    page.until("document.querySelector('#heat-score') !== null")
    drop_files = ("own.png", "image/png", page_model.png(PAGE))
    give(page, "drop", drop_files)
    page.until("document.querySelector('#gallery b')?.innerText === 'own.png'")
    known(page)
    assert texts(page, "#gallery li b") == ["own.png"], "the example gives way"


def test_late_interaction_ranks_pictures_and_texts_together(page: Page, server: Live) -> None:
    drop(page, *MANY, PAGE)
    page.evaluate("document.querySelector('#texts-part').open = true")
    page.fill("#pictures-texts", "a red page\n\nof blue")
    search(page, "red blue")
    documents = [*map(document, (*MANY, PAGE)), "a red page", "of blue"]
    body = {"model": "pages", "query": "red blue", "documents": documents}
    results = server.ask("/rerank", body)["results"]
    assert [number(score) for score in texts(page, "#ranking .score")] == pytest.approx(
        [result["relevance_score"] for result in results], abs=1e-3
    )
    assert len(texts(page, "#ranking .words")) == 2
    assert page.evaluate("document.querySelectorAll('#ranking [aria-pressed=true]').length") == 1


@pytest.mark.parametrize("model", ["dense", "clip"])
def test_embedders_rank_by_cosine_and_embed_each_picture_once(page: Page, server: Live, model: str) -> None:
    page.choose("#model", model)
    drop(page, *MANY, PAGE)
    search(page, "red")
    messages = [[{"role": "user", **document(picture)}] for picture in (*MANY, PAGE)]
    vectors = [
        server.ask("/v1/embeddings", {"model": model, **body})["data"][0]["embedding"]
        for body in ({"input": "red"}, *({"messages": conversation} for conversation in messages))
    ]
    query, *others = (np.array(vector) / np.linalg.norm(vector) for vector in vectors)
    expected = sorted((float(query @ other) for other in others), reverse=True)
    assert [number(score) for score in texts(page, "#ranking .score")] == pytest.approx(expected, abs=SHOWN)
    assert len(texts(page, ".request")) == 5
    search(page, "blue")
    assert len(texts(page, ".request")) == 1, "the pictures' vectors are kept"


@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("sided", {"input": "red", "input_type": "query"}),
        ("chatty", {"messages": [{"role": "user", "content": [{"type": "text", "text": "red"}]}]}),
        ("dense", {"input": "red"}),
    ],
)
def test_words_are_prepared_as_the_model_knows_them(page: Page, model: str, body: dict[str, Any]) -> None:
    page.choose("#model", model)
    drop(page, PAGE)
    search(page, "red")
    command = commands(page)[-1]
    assert json.loads(command.partition("-d '")[2].rpartition("'")[0]) == {"model": model, **body}


def test_a_reranker_reads_the_query_beside_each_picture(page: Page, server: Live) -> None:
    page.choose("#model", "cross")
    drop(page, PAGE, MANY[1])
    search(page, "red page")
    assert len(texts(page, "#ranking li")) == 2
    assert "beside each" in page.text("#answer .note")
    scores = [number(score) for score in texts(page, "#ranking .score")]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("model", ["pages", "clip"])
def test_a_picture_may_be_the_query(page: Page, model: str) -> None:
    page.choose("#model", model)
    drop(page, PAGE, *MANY[:2])
    page.click("#gallery li:nth-child(2) .acts button")
    assert page.text("#asking-name").startswith("page 1.png")
    assert page.evaluate("document.querySelector('#pictures-query').disabled") == (model == "clip")
    run(page, "pictures")
    assert len(texts(page, "#ranking li")) == 2, "it is not compared with itself"
    page.click("#asking-remove")
    assert not page.evaluate("document.querySelector('#pictures-query').disabled")


def test_changing_the_model_reads_the_pictures_anew(page: Page) -> None:
    drop(page, PAGE)
    page.choose("#model", "clip")
    page.until("/one vector, of the middle/.test(document.querySelector('#gallery small').innerText)")
    assert page.evaluate("document.querySelectorAll('#gallery .crop').length") == 1
    assert not page.evaluate("[...document.querySelectorAll('[role=tab]')].some((tab) => !tab.hidden && tab.id === 'tab-match')")  # fmt: skip  # noqa: E501


def test_nothing_to_search_is_told(page: Page) -> None:
    page.click("#pictures .go")
    page.until("document.querySelector('#answer').classList.contains('problem')")
    assert "add the sample page" in page.text("#answer")


def test_stop_gives_up_what_runs(page: Page) -> None:
    drop(page, PAGE)
    page.evaluate("window.slow = window.fetch; window.fetch = (address, options) => new Promise((_, refuse) => options.signal.addEventListener('abort', () => refuse(options.signal.reason)))")  # fmt: skip  # noqa: E501
    page.click("#pictures .go")
    page.until("!document.querySelector('#progress').hidden")
    assert "0 of 1" in page.text("#progress-text")
    page.click("#stop")
    page.until("document.querySelector('#progress').hidden && !document.querySelector('#pictures .go').ariaDisabled")  # fmt: skip  # noqa: E501
    page.evaluate("window.fetch = window.slow")
    search(page)
    assert len(texts(page, "#ranking li")) == 1


# The heat map


def test_each_word_points_at_the_patch_that_answers_it(page: Page) -> None:
    drop(page, PAGE)
    search(page, "what is red or blue")
    page.until("document.querySelector('#heat-tokens') !== null")
    for word, place in (("red", RED), ("blue", BLUE)):
        page.click(token(page, word))
        assert box(page, ".main .mark") == pytest.approx(cell(place), abs=PIXELS / 300)
        strongest = colours(page, place)
        assert strongest[3] > 250
        assert strongest[0] > strongest[1] + 100, "red"
        assert colours(page, (4, 6))[3] < 40, "the white of the page shows through"
        assert f"“{word}” is answered best at row {place[0] + 1} of 9, column {place[1] + 1} of 14" in page.text("#heat-line")  # fmt: skip  # noqa: E501
        assert page.text("#live") == page.text("#heat-line")


def test_its_score_is_that_of_the_api(page: Page, server: Live) -> None:
    drop(page, PAGE)
    search(page, "what is red or blue")
    page.until("document.querySelector('#heat-score') !== null")
    body = {"model": "pages", "data_1": "what is red or blue", "data_2": document(PAGE)}
    score = server.ask("/score", body)["data"][0]["score"]
    assert number(page.text("#heat-score")) == pytest.approx(score, abs=1e-3)
    assert page.text("#heat-same").startswith("The same as /score")
    shares = [number(label.split("\n")[1]) for label in texts(page, "#heat-tokens button")[1:]]
    assert sum(shares) == pytest.approx(score, abs=0.005 * len(shares))


def test_it_may_be_prepared_as_the_authors_do(page: Page) -> None:
    page.choose("#model", "late-sided")
    drop(page, PAGE)
    search(page, "red")
    page.until("document.querySelector('#heat-preparation') !== null")
    assert page.text("#heat-same").startswith("The same as /score")
    assert "query" not in page.text("#heat-tokens")
    page.choose("#heat-preparation", "model")
    page.until("/query/.test(document.querySelector('#heat-tokens')?.innerText)")
    page.until("document.activeElement.id === 'heat-preparation'")
    assert page.text("#heat-same").startswith("/score prepares both sides its own way")


def test_pointing_and_focus_preview_a_token_and_all_together_sum_up(page: Page) -> None:
    drop(page, PAGE)
    search(page, "red blue")
    page.until("document.querySelector('#heat-tokens') !== null")
    assert page.evaluate("document.querySelector('#heat-tokens .everything').ariaPressed") == "true"
    assert "comes from patches of the page" in page.text("#heat-line")
    assert colours(page, RED)[3] > 150
    assert colours(page, BLUE)[3] > 150
    page.evaluate(f"document.querySelector({json.dumps(token(page, 'red'))}).focus()")
    assert "“red” is answered best" in page.text("#heat-line")
    assert colours(page, BLUE)[3] < 100
    page.evaluate("document.activeElement.blur()")
    assert "comes from patches" in page.text("#heat-line"), "what was chosen is shown again"
    page.choose("#heat-way", "most")
    assert colours(page, RED)[3] > 150


def test_the_page_says_what_lies_under_the_pointer_and_the_keys(page: Page) -> None:
    drop(page, PAGE)
    search(page, "red blue")
    page.until("document.querySelector('.main .sheet-of-paper') !== null")
    page.evaluate("document.querySelector('.main .sheet-of-paper').focus()")
    page.press("ArrowRight")
    assert page.text("#heat-patch").startswith("Row 1, column 1:")
    for key, times in (("ArrowRight", 3), ("ArrowDown", 1)):
        for _ in range(times):
            page.press(key)
    assert page.text("#heat-patch").startswith("Row 2, column 4:")
    assert page.text("#heat-patch").endswith("It answers “red”")
    assert box(page, ".main .cursor") == pytest.approx(cell(RED), abs=PIXELS / 300)
    place = page.evaluate("(() => { const view = document.querySelector('.main .sheet-of-paper'); view.scrollIntoView({ block: 'center' }); const box = view.getBoundingClientRect(); return [box.x, box.y, box.width, box.height]; })()")  # fmt: skip  # noqa: E501
    left, top, right, bottom = cell(BLUE)
    x, y = place[0] + place[2] * (left + right) / 2, place[1] + place[3] * (top + bottom) / 2
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.until("document.querySelector('#heat-patch').innerText.startsWith('Row 8, column 13')")
    assert "blue" in texts(page, "#heat-tokens .best")[0]


def test_strength_and_smoothing_change_the_picture_only(page: Page) -> None:
    drop(page, PAGE)
    search(page, "red")
    page.until("document.querySelector('#heat-strength') !== null")
    opacity = "Number(getComputedStyle(document.querySelector('.main .overlay')).opacity)"
    assert page.evaluate(opacity) == pytest.approx(0.75, abs=0.01)
    page.evaluate("(() => { const knob = document.querySelector('#heat-strength'); knob.value = 20; knob.dispatchEvent(new Event('input')); })()")  # fmt: skip  # noqa: E501
    assert page.evaluate(opacity) == pytest.approx(0.2, abs=0.01)
    page.click(token(page, "red"))
    beside = (RED[0], RED[1] + 1)
    before = colours(page, beside)
    page.click("#heat-smooth")
    assert colours(page, RED)[3] >= 150
    assert colours(page, beside) != before or colours(page, beside)[3] == 0


def test_another_result_is_looked_at_by_choosing_it(page: Page) -> None:
    drop(page, PAGE, MANY[0])
    search(page, "blue")
    page.until("document.querySelector('#heat-score') !== null")
    page.click("#ranking li:nth-child(2) button")
    page.until("document.querySelector('.main .sheet-of-paper img')?.alt === 'page 1.png'")
    assert page.evaluate("document.querySelector('#ranking li:nth-child(2) button').ariaPressed") == "true"


def test_the_curl_command_of_a_picture_is_short_to_read_and_whole_when_copied(page: Page) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)  # beyond a shell's argument
    drop(page, noise)
    search(page, "red")
    page.until("document.querySelector('#heat-score') !== null")
    shown = commands(page)[0]
    assert len(shown) < 500
    assert "kB" in shown
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.click(".request summary")
    page.click(".request .copy")
    page.until("document.querySelector('.request .copy').innerText === 'Copied'")
    command = page.evaluate("navigator.clipboard.readText()")
    assert len(command) > 300_000
    done = subprocess.run(["bash"], input=command.replace("curl ", "curl --silent --show-error ", 1),
                          capture_output=True, text=True, check=True)  # fmt: skip
    (result,) = json.loads(done.stdout)["results"]
    assert number(texts(page, "#ranking .score")[0]) == pytest.approx(result["relevance_score"], abs=SHOWN)


def test_a_name_of_a_file_is_never_markup(page: Page) -> None:
    name = "<img src=x onerror=document.title=1>.png"
    give(page, "drop", (name, "image/png", page_model.png(PAGE)))
    page.until("document.querySelectorAll('#gallery li').length === 1")
    known(page)
    search(page, "red")
    page.until("document.querySelector('#heat-score') !== null")
    assert texts(page, "#ranking .what") == [name]
    assert page.evaluate("document.title") == "poolrt playground"


def test_the_sample_page_is_drawn_and_searched(page: Page) -> None:
    page.choose("#model", "clip")
    page.click("#sample")
    page.until("document.querySelectorAll('#gallery li').length === 1")
    known(page)
    search(page)
    assert texts(page, "#ranking .what") == ["Sample page"]


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_pictures_are_readable_at_phone_width(page: Page, colours: str) -> None:
    page.size(PHONE, 740, phone=True, scale=2)
    page.prefer(colours)
    drop(page, PAGE, MANY[0])
    search(page, "what is red or blue")
    page.until("document.querySelector('#heat-score') !== null")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE
    assert page.evaluate(OVERFLOW) == []
    worst = page.evaluate(CONTRAST)
    assert worst[0][0] >= LEAST_CONTRAST, worst
    small = page.evaluate(
        "[...document.querySelectorAll('main .go, main .plain, main .file, main select, [role=tab]')]"
        ".filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 44).map((e) => e.innerText)"
    )
    assert small == [], "fingers need 44 pixels"


def test_screenshots_of_pictures_for_people(page: Page) -> None:
    folder = os.environ.get("POOLRT_SCREENSHOTS")
    if not folder:
        pytest.skip("pictures are taken only when POOLRT_SCREENSHOTS names a folder for them")
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    drop(page, PAGE, *MANY)
    search(page, "what is red or blue")
    page.until("document.querySelector('#heat-score') !== null")
    finished(page)
    for name, width, scheme in (("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 390, "light")):
        page.size(width, 900, phone=width < 1000, scale=1)
        page.prefer(scheme)
        page.screenshot(place / f"pictures-{name}.png")
