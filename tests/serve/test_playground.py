"""The page at `/`: what it says about itself everywhere, and what it does in a real
browser where there is one.

The browser tests need Chromium or Chrome on the path (`apt-get install chromium`) or POOLRT_CHROMIUM;
without it they are skipped, as on a bare CI machine. POOLRT_SCREENSHOTS=FOLDER keeps pictures of the
page for people to look at.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime.artifact.manifest import Head, Role
from poolrt.runtime.loader import load
from poolrt.serve.pages import playground
from poolrt.serve.settings import Settings

from tests.end_to_end.commands import post, served
from tests.serve.chromium import Page
from tests.serve.conftest import Live, live, serving

HTML = playground.PAGE.decode()
SHOWN = 6e-5  # the page shows four decimals
PHONE = 360
LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3, for text of ordinary size
KEY = "a key'with\"marks"

QUERY = "what is the capital of france"
DOCUMENTS = [
    "mars is known as the red planet",
    "paris is the capital of france",
    "the king of france",
    "<b>bold</b> & more",
]


@pytest.fixture(scope="module")
def address(artifacts: Callable[[str], Path]) -> Iterator[str]:
    names = ("minilm_like", "bert_cross_encoder", "bert_classifier", "bert_tokens", "bge_m3", "colbert")
    with served(*(artifacts(name) for name in names)) as url:
        yield url


@pytest.fixture
def page(browser: Page, address: str) -> Iterator[Page]:
    """The page freshly opened at desktop width; afterwards its console must be empty, so nothing was
    refused or failed in silence."""
    browser.size(1280, 900)
    browser.prefer("light")
    fresh(browser, address)
    yield browser
    assert browser.console == []


def fresh(browser: Page, address: str) -> None:
    browser.open("about:blank")
    browser.console.clear()
    browser.open(f"{address}/")
    browser.until("document.querySelectorAll('#model option').length > 1")


def run(page: Page, task: str, *, model: str | None = None) -> None:
    """Opens a task of a model and presses its button. Fails with what the page says
    when it says that it failed."""
    if model is not None:
        page.choose("#model", model)
    if not page.evaluate(f"document.querySelector('#tab-{task}').ariaSelected === 'true'"):
        page.click(f"#tab-{task}")
    page.click(f"#{task} .go")
    finished(page)


def finished(page: Page) -> None:
    page.until(
        "!document.querySelector('#answer').hidden && document.querySelector('#answer').ariaBusy !== 'true'"
    )
    assert not page.evaluate("document.querySelector('#answer').classList.contains('problem')"), page.text(
        "#answer"
    )


def texts(page: Page, selector: str) -> list[str]:
    return page.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((element) => element.innerText)"
    )


def commands(page: Page) -> list[str]:
    """The code of each request, folded or not."""
    return page.evaluate("[...document.querySelectorAll('.request pre')].map((code) => code.textContent)")


def number(text: str) -> float:
    return float(text.replace("−", "-"))


# Without a browser


def test_page_names_nothing_outside_itself() -> None:
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'<>]*", HTML))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of the SVG format, which no browser fetches"
    assert {value.partition(",")[0] for value in re.findall(r"\b(?:src|href)=\"([^\"]*)", HTML)} == {
        "data:image/svg+xml",
        "#work",
        "docs",
    }


def test_page_never_parses_text_as_html() -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new "
        r"Function|DOMParser| on\w+=\"",
        HTML,
    )


def test_policy_allows_the_pages_own_style_and_script_only() -> None:
    rules = (rule.partition(" ") for rule in playground.HEADERS["Content-Security-Policy"].split("; "))
    policy: dict[str, str] = {name: value for name, _, value in rules}
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        inside = HTML.split(f"<{tag}>")[1].split(f"</{tag}>")[0].encode()
        assert HTML.count(f"<{tag}") == 1
        assert (
            policy[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode()}'"
        )
    assert policy["require-trusted-types-for"] == "'script'"


def test_every_field_has_a_label() -> None:
    fields = re.findall(r"<(?:input|select|textarea)[^>]* id=\"([\w-]+)\"", HTML)
    assert fields == re.findall(r"<label for=\"([\w-]+)\"", HTML)


def test_page_is_sent_again_only_when_it_changed(address: str) -> None:
    with urllib.request.urlopen(f"{address}/") as answer:
        assert answer.read() == playground.PAGE
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Content-Security-Policy"] == playground.HEADERS["Content-Security-Policy"]
        etag = answer.headers["ETag"]
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(urllib.request.Request(f"{address}/", headers={"If-None-Match": etag}))
    assert raised.value.code == 304
    raised.value.close()


def test_facts_tell_what_each_model_can_do(address: str) -> None:
    with urllib.request.urlopen(f"{address}/playground.json") as answer:
        told = {model["id"]: model for model in json.load(answer)["models"]}
    assert list(told) == [
        "minilm_like",
        "bert_cross_encoder",
        "bert_classifier",
        "bert_tokens",
        "bge_m3",
        "colbert",
    ]
    facts = told["minilm_like"]["evidence"]
    assert (facts["backend"], facts["precision"]) == ("onnxruntime", "fp32")
    assert facts["measured"]
    assert facts["bytes"] > 0
    assert told["bert_cross_encoder"]["scoring"] == "cross-encoder"
    assert told["colbert"]["roles"]["query"]["expand_id"] is not None
    assert told["minilm_like"]["roles"] is None
    assert len(told["bert_classifier"]["heads"]["classify"]["labels"]) == 3


def test_facts_are_those_of_the_manifests(everything: Live) -> None:
    got = everything.client.get("/playground.json")
    assert (got.headers["cache-control"], got.headers["content-type"]) == ("no-store", "application/json")
    told = got.json()
    assert (told["keyed"], told["docs"]) == (False, True)
    for each, one in zip(told["models"], everything.here.registry, strict=True):
        manifest = one.manifest
        assert {key: each[key] for key in ("id", "architecture", "scoring", "max_tokens")} == {
            "id": one.name, "architecture": manifest.architecture, "scoring": manifest.scoring,
            "max_tokens": one.model.max_tokens,
        }  # fmt: skip
        assert each["tasks"] == list(one.model.tasks)
        assert each["heads"].keys() == manifest.heads.keys()


def test_page_shows_the_limit_that_the_operator_set(artifacts: Callable[[str], Path]) -> None:
    with (
        load(artifacts("minilm_like"), threads=1, max_tokens=16, check="quick") as model,
        live(model) as server,
    ):
        (told,) = server.client.get("/playground.json").json()["models"]
        assert told["max_tokens"] == model.max_tokens == 16


def test_a_page_of_a_server_with_a_key_knows_it(embedder: Live) -> None:
    with serving(embedder.here.registry, Settings(api_keys=("k",), docs=False)) as server:
        told = server.client.get("/playground.json", headers={"Authorization": "Bearer k"}).json()
        assert (told["keyed"], told["docs"]) == (True, False)


def test_facts_of_a_head_and_of_a_role_keep_their_names() -> None:
    head = Head(
        output="x", dim=8, pool="tokens", activation="identity", labels=("a", "b"), matryoshka=(2, 4),
        drop_first=1, drop_last=2,
        drop_first_id=3, drop_last_id=4,
    )  # fmt: skip
    assert playground.head_facts(head) == {
        "dim": 8, "labels": ["a", "b"], "matryoshka": [2, 4], "drop_first": 1, "drop_last": 2,
        "drop_first_id": 3, "drop_last_id": 4,
    }  # fmt: skip
    role = Role(prefix="q: ", marker_id=1, max_tokens=32, expand_id=2, skip_ids=(3, 4))
    assert playground.role_facts(role) == {
        "prefix": "q: ",
        "marker_id": 1,
        "max_tokens": 32,
        "expand_id": 2,
        "skip_ids": [3, 4],
    }


def test_page_may_be_kept_but_is_asked_for_again(embedder: Live) -> None:
    got = embedder.client.get("/")
    assert got.headers["cache-control"] == "no-cache"
    assert got.headers["referrer-policy"] == "no-referrer"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert embedder.client.get("/", headers={"If-None-Match": '"other"'}).status_code == 200
    rules = got.headers["content-security-policy"].split("; ")
    assert {
        "default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'",
        "frame-ancestors 'none'",
        "trusted-types 'none'",
    } <= set(rules)  # fmt: skip


# In a browser


def test_compare_shows_the_cosine_of_two_texts(page: Page, address: str) -> None:
    page.choose("#model", "minilm_like")
    page.fill("#compare-a", QUERY)
    page.fill("#compare-b", "paris")
    run(page, "compare")
    data = post(f"{address}/v1/embeddings", {"model": "minilm_like", "input": [QUERY, "paris"]})["data"]
    one, other = (np.array(item["embedding"]) for item in data)
    expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert number(page.text("#cosine")) == pytest.approx(expected, abs=SHOWN)
    assert page.evaluate("Number(document.querySelector('.gauge').ariaValueNow)") == pytest.approx(
        expected, abs=SHOWN
    )
    assert f"Cosine similarity {expected:.4f}" in page.text("#live"), "told to screen readers"


@pytest.mark.parametrize("model", ["minilm_like", "bert_cross_encoder", "colbert"])
def test_rerank_shows_documents_best_first(page: Page, address: str, model: str) -> None:
    page.choose("#model", model)
    page.click("#tab-rerank")
    page.fill("#rerank-query", QUERY)
    page.fill("#rerank-documents", "\n".join(["", *DOCUMENTS, "  "]))
    run(page, "rerank")
    results = post(f"{address}/rerank", {"model": model, "query": QUERY, "documents": DOCUMENTS})["results"]
    assert texts(page, ".bars .what") == [DOCUMENTS[result["index"]] for result in results]
    shown = [number(text) for text in texts(page, ".bars .score")]
    np.testing.assert_allclose(
        shown, [result["relevance_score"] for result in results], rtol=1e-4, atol=SHOWN
    )
    widths = page.evaluate(
        "[...document.querySelectorAll('.bar i')].map((bar) => Number(bar.style.getPropertyValue('--w')))"
    )
    assert widths == sorted(widths, reverse=True)
    assert 0 <= widths[-1] <= widths[0] <= 1


def test_classify_shows_labels_with_the_likeliest_on_top(page: Page, address: str) -> None:
    run(page, "classify", model="bert_classifier")
    text = page.evaluate("document.querySelector('#classify-text').value")
    told = post(f"{address}/classify", {"model": "bert_classifier", "input": text})["data"][0]
    assert page.text("#label-best") == told["label"] == texts(page, ".bars .what")[0]
    assert [number(score) for score in texts(page, ".bars .score")] == pytest.approx(
        sorted(told["probs"], reverse=True), abs=SHOWN
    )


@pytest.mark.parametrize(("model", "lines"), [("bert_tokens", "names"), ("bge_m3", "weights")])
def test_tokens_show_the_label_or_weight_of_each(page: Page, address: str, model: str, lines: str) -> None:
    run(page, "label", model=model)
    text = page.evaluate("document.querySelector('#label-text').value")
    rows = post(f"{address}/pooling", {"model": model, "task": "token_classify", "input": text})["data"][0][
        "data"
    ]
    told = texts(page, "#labelled small")
    if lines == "weights":
        assert told == [f"{weight:.3f}" for weight in rows]
        return
    with urllib.request.urlopen(f"{address}/playground.json") as answer:
        facts = next(known for known in json.load(answer)["models"] if known["id"] == model)
    names = [facts["heads"]["token_classify"]["labels"][int(np.argmax(row))] for row in rows]
    assert told == ["·" if name == "O" else name for name in names]


@pytest.mark.parametrize("prepared", ["roles", "plain"])
def test_heat_map_shows_which_document_token_answers_each_query_token(
    page: Page, address: str, prepared: str
) -> None:
    # Has punctuation that the document role skips
    document = "Paris, the red planet: is it known as the capital?"
    page.choose("#model", "colbert")
    page.click("#tab-match")
    page.fill("#match-query", QUERY)
    page.fill("#match-document", document)
    page.choose("#match-preparation", prepared)
    run(page, "match")
    sides = []
    for text, role in ((QUERY, "query"), (document, "document")):
        body: dict[str, object] = {
            "model": "colbert",
            "task": "token_embed",
            "input": text,
            **({"input_type": role} if prepared == "roles" else {}),
        }
        sides.append(np.array(post(f"{address}/pooling", body)["data"][0]["data"]))
    table = sides[0] @ sides[1].T
    best = page.evaluate(
        "[...document.querySelectorAll('#heat tbody tr')]"
        ".map((row) => [...row.querySelectorAll('td')].findIndex((cell) => cell.className === 'best'))"
    )
    assert best == table.argmax(axis=1).tolist()
    assert number(page.text("#maxsim")) == pytest.approx(table.max(axis=1).sum(), rel=1e-4)
    assert not any(name.startswith("#") for name in texts(page, "#heat th")), (
        "every row and column has a token's name"
    )
    score = post(f"{address}/score", {"model": "colbert", "text_1": QUERY, "text_2": document})["data"][0][
        "score"
    ]
    if prepared == "plain":
        assert score == pytest.approx(table.max(axis=1).sum(), rel=1e-4)
        assert page.text("#same").startswith("The same as /score")
    else:
        assert "/score prepares both sides as plain text" in page.text("#same")
        assert {"[Q]", "[MASK]"} <= set(texts(page, "#query-tokens button"))
        assert "," not in texts(page, "#document-tokens li")


def test_picking_a_query_token_shows_where_it_looks(page: Page) -> None:
    page.choose("#model", "minilm_like")
    page.click("#tab-match")
    page.fill("#match-document", DOCUMENTS[1])
    run(page, "match")
    page.evaluate("document.querySelectorAll('#query-tokens button')[2].focus()")
    page.press("Enter")
    assert page.evaluate("document.querySelectorAll('#query-tokens [aria-pressed=true]').length") == 1
    best = page.evaluate(
        "[...document.querySelectorAll('#heat tbody tr')[2].querySelectorAll('td')].findIndex((cell) "
        "=> cell.className === 'best')"
    )
    marked = page.evaluate(
        "[...document.querySelectorAll('#document-tokens li')].map((item) => item.classList.contains('best'))"
    )
    assert [index for index, is_best in enumerate(marked) if is_best] == [best]
    assert page.text("#live") == page.text("#match-line")


def test_every_curl_command_can_be_pasted_into_a_shell(page: Page) -> None:
    page.choose("#model", "minilm_like")
    page.fill("#compare-a", 'it\'s $HOME, "quoted" \\ and `so on`')
    run(page, "compare")
    command = commands(page)[0]
    done = subprocess.run(
        ["bash", "-c", f"{command} --silent --show-error"], capture_output=True, text=True, check=True
    )
    one, other = (np.array(item["embedding"]) for item in json.loads(done.stdout)["data"])
    assert number(page.text("#cosine")) == pytest.approx(one @ other, abs=SHOWN)
    assert re.fullmatch(
        r"POST /v1/embeddings\s*200\s*[\d.]+ ms\s*\d+ tokens\s*Code", page.text(".request summary")
    )


def test_copy_button_copies_the_command(page: Page) -> None:
    run(page, "compare", model="minilm_like")
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.click(".request summary")
    page.click(".request .copy")
    page.until("document.querySelector('.request .copy').innerText === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == commands(page)[0]


def test_text_is_never_markup(page: Page) -> None:
    hostile = "<img src=x onerror=document.title=1><script>document.title=1</script>"
    page.choose("#model", "minilm_like")
    page.click("#tab-rerank")
    page.fill("#rerank-documents", hostile)
    run(page, "rerank")
    assert texts(page, ".bars .what") == [hostile]
    markup = "main :is(img:not(#asking-picture), script)"
    assert page.evaluate(f"document.querySelectorAll('{markup}').length") == 0
    assert page.evaluate("document.title") == "poolrt playground"


def test_what_the_server_refuses_is_told_in_its_words(page: Page, address: str) -> None:
    page.choose("#model", "minilm_like")
    page.fill("#compare-a", "planet " * 2000)
    page.click("#compare .go")
    page.until("document.querySelector('#answer').classList.contains('problem')")
    assert "Please reduce the length of the input prompt" in page.text("#answer")
    assert page.text("#live")
    assert all("400" in line for line in page.console), "the browser itself notes a 400"
    page.console.clear()


def test_keyboard_alone_is_enough(page: Page) -> None:
    page.choose("#model", "bge_m3")
    page.evaluate("document.querySelector('#model').focus()")
    visited = []
    for _ in range(5):
        page.press("Tab")
        visited.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert visited == ["", "tab-compare", "compare-a", "compare-b", "go"]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.evaluate("document.querySelector('#compare-b').focus()")
    page.press("Enter", control=True)
    finished(page)
    page.evaluate("document.querySelector('#tab-compare').focus()")
    page.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-lines"
    assert page.evaluate(
        "!document.querySelector('#lines').hidden && document.querySelector('#compare').hidden"
    )
    page.press("End")
    assert page.evaluate("document.activeElement.id") == "tab-count"
    page.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-compare"
    page.evaluate(
        "document.querySelector('#tab-rerank').click(); document.querySelector('#rerank-query').focus()"
    )
    page.press("Enter")
    finished(page)


OVERFLOW = (
    "[...document.querySelectorAll('body *')].filter((e) => !e.closest('.map, .wide, pre') && "
    "!e.matches('.unseen, .skip') && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.id "
    "|| e.className || e.tagName)"
)

# Text, its colour and the first background behind it that is not see-through; the canvas turns any
# CSS colour into bytes.
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const bytes = (colour, under) => { canvas.fillStyle = under ?? "#fff"; canvas.fillRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = (rgb) => { const [r, g, b] = rgb.slice(0, 3).map((v) => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = (element) => { for (let e = element; e; e = e.parentElement) { const colour = getComputedStyle(e).backgroundColor; if (!/^rgba\\(.*, 0\\)$/.test(colour)) return colour; } return "#fff"; };
  return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && !e.matches(".unseen, .skip, option") && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).map((e) => {
    const back = behind(e), a = light(bytes(getComputedStyle(e).color, back)), b = light(bytes(back));
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), (e.innerText ?? e.textContent).slice(0, 20)];
  }).sort((a, b) => a[0] - b[0]).slice(0, 3);
})()"""  # noqa: E501


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_view_is_readable_at_phone_width(page: Page, colours: str) -> None:
    page.size(PHONE, 740, phone=True, scale=2)
    page.prefer(colours)
    views = (
        ("minilm_like", "compare"),
        ("bert_cross_encoder", "rerank"),
        ("bert_classifier", "classify"),
        ("bert_tokens", "label"),
        ("minilm_like", "lines"),
        ("minilm_like", "search"),
        ("minilm_like", "both"),
        ("minilm_like", "count"),
    )
    for model, task in (*views, ("colbert", "match")):
        run(page, task, model=model)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE, task
        assert page.evaluate(OVERFLOW) == [], task
        worst = page.evaluate(CONTRAST)
        assert worst[0][0] >= LEAST_CONTRAST, (task, worst)
        small = page.evaluate(
            "[...document.querySelectorAll('main .go, main select, [role=tab]')]"
            ".filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 44).length"
        )
        assert small == 0, "fingers need 44 pixels"


def test_colours_follow_the_system_until_someone_chooses(page: Page, address: str) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(background)
    page.prefer("dark")
    dark = page.evaluate(background)
    assert dark != light
    page.click("#theme")
    assert page.evaluate(background) == light
    fresh(page, address)
    assert page.evaluate(background) == light, "kept for the next visit"
    page.click("#theme")
    assert page.evaluate("localStorage.length") == 0, "back to what the system says"
    assert page.evaluate(background) == dark


def test_key_is_asked_for_and_kept_in_this_tab_only(browser: Page, artifacts: Callable[[str], Path]) -> None:
    with served(artifacts("minilm_like"), flags=["--api-key", KEY]) as url:
        # The browser's own prompt, answered: it sends the key with the page's requests, until the
        # page has one of its own.
        browser.open(url.replace("//", f"//anyone:{urllib.parse.quote(KEY)}@") + "/")
        browser.until("document.querySelectorAll('#model option').length === 1")
        run(browser, "compare")
        browser.click("#key-button")
        browser.fill("#key", "yesterday's key")
        browser.press("Enter")  # asks again, with the new key
        browser.until("document.querySelector('#answer').classList.contains('problem')")
        assert "asks for its API key" in browser.text("#answer")
        assert browser.evaluate("document.activeElement.id") == "key"
        browser.fill("#key", KEY)
        browser.press("Enter")
        run(browser, "compare")
        command = commands(browser)[0]
        assert KEY not in command
        done = subprocess.run(
            ["bash", "-c", f"{command} --silent"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "POOLRT_API_KEY": KEY},
        )
        assert json.loads(done.stdout)["object"] == "list"
        assert browser.evaluate("localStorage.length + document.cookie.length") == 0
        assert browser.evaluate("Object.values(sessionStorage)") == [KEY]
        browser.evaluate("sessionStorage.clear()")


def test_screenshots_for_people(browser: Page, minilm: Path) -> None:
    folder = os.environ.get("POOLRT_SCREENSHOTS")
    if not folder:
        pytest.skip("pictures are taken only when POOLRT_SCREENSHOTS names a folder for them")
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    with served(minilm) as url:
        browser.open(f"{url}/")
        browser.until("document.querySelectorAll('#model option').length > 0")
        for name, width, colours in (
            ("desktop-light", 1280, "light"),
            ("desktop-dark", 1280, "dark"),
            ("phone", PHONE, "light"),
        ):
            browser.size(width, 900, phone=width == PHONE, scale=2)
            browser.prefer(colours)
            for task in ("compare", "lines", "search", "rerank", "match", "count"):
                run(browser, task)
                browser.until("document.getAnimations().every((one) => one.playState === 'finished')")
                browser.screenshot(place / f"{task}-{name}.png")
