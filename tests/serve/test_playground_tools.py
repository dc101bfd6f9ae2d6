"""The playground's tools in a real browser: an answer as the page opens, the map of lines, search in a file,
two models side by side, the counter, the code of a request, and the link.

Needs Chromium as tests/serve/test_playground.py does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime.loader import load

from tests.serve.chromium import Page
from tests.serve.conftest import Live, live
from tests.serve.test_playground import SHOWN, finished, fresh, number, run, texts

LINES = ["paris is the capital of france", "the king of france", "mars", "a red planet", "the the the"]


@pytest.fixture(scope="module")
def server(artifacts: Callable[[str], Path]) -> Iterator[Live]:
    with ExitStack() as stack:
        models = [
            stack.enter_context(load(artifacts(name), threads=1, check="quick"))
            for name in ("minilm_like", "colbert", "bert_cross_encoder")
        ]
        yield stack.enter_context(live(*models))


@pytest.fixture
def page(browser: Page, server: Live) -> Iterator[Page]:
    browser.size(1280, 900)
    browser.prefer("light")
    fresh(browser, address(server))
    yield browser
    assert browser.console == []


def address(server: Live) -> str:
    return f"http://127.0.0.1:{server.port}"


def unit_vectors(server: Live, lines: list[str]) -> np.ndarray:
    data = server.ask("/v1/embeddings", {"model": "minilm_like", "input": lines})["data"]
    vectors = np.array([item["embedding"] for item in data])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_page_opens_with_its_example_answered(page: Page, server: Live) -> None:
    finished(page)
    first, second = (page.evaluate(f"document.querySelector('#compare-{side}').value") for side in "ab")
    a, b = unit_vectors(server, [first, second])
    assert number(page.text("#cosine")) == pytest.approx(a @ b, abs=SHOWN)


def test_an_answer_follows_what_is_written(page: Page, server: Live) -> None:
    finished(page)
    page.fill("#compare-a", "mars")
    page.fill("#compare-b", "a red planet")
    a, b = unit_vectors(server, ["mars", "a red planet"])
    page.until(f"document.querySelector('#cosine').innerText.replace('−', '-') == '{a @ b:.4f}'")
    assert page.evaluate("document.activeElement.id") == "compare-b", "nobody is thrown out of a field"


def test_a_request_that_is_outdated_is_given_up(page: Page) -> None:
    finished(page)
    page.evaluate(
        "window.ended = 0; window.real = window.fetch; window.fetch = (path, options) => new Promise("
        "(_, refuse) => options.signal.addEventListener('abort', () => { window.ended += 1;"
        " refuse(options.signal.reason); }))"
    )
    page.fill("#compare-a", "mars")
    page.until("document.querySelector('#answer').ariaBusy === 'true'")
    page.evaluate("window.fetch = window.real")
    page.fill("#compare-a", "venus")
    page.until("window.ended === 1 && document.querySelector('#answer').ariaBusy !== 'true'")


def test_a_link_restores_the_model_the_tab_and_the_texts(page: Page, server: Live) -> None:
    page.choose("#model", "colbert")
    page.click("#tab-rerank")
    page.fill("#rerank-query", "ärger & more = #1?")
    page.fill("#rerank-documents", "\n".join(LINES))
    run(page, "rerank")
    expected = texts(page, ".bars .what"), texts(page, ".bars .score")
    link = page.evaluate("location.href")
    page.open("about:blank")
    page.open(link)
    page.until("document.querySelectorAll('#model option').length > 1")
    finished(page)
    assert page.evaluate("document.querySelector('#rerank-query').value") == "ärger & more = #1?"
    assert (texts(page, ".bars .what"), texts(page, ".bars .score")) == expected
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.click("#link")
    page.until("document.querySelector('#link').innerText === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == link


def test_the_map_is_a_principal_component_analysis(page: Page, server: Live) -> None:
    page.click("#tab-lines")
    page.fill("#lines-texts", "\n".join(LINES))
    run(page, "lines")
    vectors = unit_vectors(server, LINES)
    cells = [float(cell.replace("−", "-") or 1) for cell in texts(page, "#matrix tbody td")]
    np.testing.assert_allclose(np.reshape(cells, (5, 5)), vectors @ vectors.T, atol=6e-3)
    centred = vectors - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    facts = page.evaluate(f"project({json.dumps(vectors.tolist())})")
    np.testing.assert_allclose(np.abs(facts["points"]), np.abs(left[:, :2] * values[:2]), atol=1e-4)
    np.testing.assert_allclose(facts["kept"], values[:2] ** 2 / (values**2).sum(), atol=1e-4)
    assert page.evaluate("document.querySelectorAll('#map circle').length") == 5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "\r\n".join(LINES) + "\r\n\r\n"),
        ("rows.jsonl", "".join(json.dumps({"id": 1, "text": line}) + "\n" for line in LINES)),
    ],
)
def test_search_ranks_the_lines_of_a_file(
    page: Page, server: Live, tmp_path: Path, name: str, content: str
) -> None:
    page.click("#tab-search")
    finished(page)
    (tmp_path / name).write_bytes(content.encode())
    page.files("#search-file", tmp_path / name)
    page.until(f"/of {name}/.test(document.querySelector('#answer h2').innerText)")
    page.fill("#search-query", "a planet")
    run(page, "search")
    query, *lines = unit_vectors(server, ["a planet", *LINES])
    order = np.argsort([-(query @ line) for line in lines], kind="stable")
    assert texts(page, ".bars .what") == [LINES[at] for at in order]
    assert len(texts(page, ".request")) == 1, "vectors of the lines are kept"


def test_side_by_side_measures_both_and_their_drift(page: Page, server: Live) -> None:
    run(page, "both", model="colbert")
    assert page.evaluate("[...document.querySelectorAll('#both-other option')].map((o) => o.value)") == [
        "minilm_like",
        "bert_cross_encoder",
    ]
    query, *documents = page.evaluate("document.querySelector('#both-texts').value").split("\n")
    shown = [[number(cell) for cell in texts(page, f"#both-lines td:nth-child({at})")] for at in (2, 3)]
    for name, column in zip(("colbert", "minilm_like"), shown, strict=True):
        body = {"model": name, "query": query, "documents": documents}
        results = sorted(server.ask("/rerank", body)["results"], key=lambda result: result["index"])
        scores = [result["relevance_score"] for result in results]
        np.testing.assert_allclose(column, scores, rtol=1e-3, atol=SHOWN)
    gap = np.abs(np.subtract(shown[0], shown[1])).max()
    assert number(page.text("#both-drift")) == pytest.approx(gap, rel=1e-3, abs=2e-4)
    assert "is faster" in page.text("#both-speed")


def test_the_counter_strikes_out_what_the_server_cuts(page: Page, server: Live) -> None:
    text = "paris is the capital of france and the king is in paris"
    page.click("#tab-count")
    page.fill("#count-text", text)
    page.fill("#count-limit", "7")
    run(page, "count")
    ids = server.ask("/tokenize", {"model": "minilm_like", "prompt": text})["tokens"]
    assert page.text("#token-count") == str(len(ids))
    stays = page.evaluate(
        "[...document.querySelectorAll('#counted li:not(.cut)')].map((token) => Number(token.title.slice(3)))"
    )
    whole = {"model": "minilm_like", "input": text, "truncate_prompt_tokens": 7}
    exact = {"model": "minilm_like", "input": [stays]}
    vectors = [server.ask("/v1/embeddings", body)["data"][0]["embedding"] for body in (whole, exact)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_evidence_is_what_the_manifest_says(page: Page, server: Live) -> None:
    page.click("#evidence summary")
    manifest = next(served.manifest for served in server.here.registry if served.name == "minilm_like")
    assert manifest.digest in page.text("#evidence-facts")
    rows = page.evaluate("document.querySelectorAll('#evidence-rows tr').length")
    agreements = manifest.reading.agreements if manifest.reading else ()
    measured = [entry for entry in manifest.evidence if entry.engine == "onnxruntime:model.onnx"]
    assert rows == len(measured) + len(agreements) > 0


def code(page: Page, language: str) -> str:
    """The code of the only request in a language."""
    page.evaluate("document.querySelector('.request').open = true")
    at = texts(page, ".languages button").index(language)
    page.click(f".languages button:nth-child({at + 1})")
    return page.evaluate("document.querySelector('.request pre').textContent")


@pytest.mark.parametrize("language", ["Python", "Cohere"])
@pytest.mark.parametrize("task", ["compare", "rerank"])
@pytest.mark.slow
def test_python_code_runs_as_it_is_shown(page: Page, task: str, language: str) -> None:
    page.evaluate(f"document.querySelector('#rerank-documents').value = {json.dumps(chr(10).join(LINES))}")
    run(page, task)
    program = code(page, language)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "relevance_score" in done.stdout if task == "rerank" else done.stdout.startswith("[")


def test_javascript_code_runs_as_it_is_shown(page: Page) -> None:
    page.click("#tab-rerank")
    page.fill("#rerank-documents", "\n".join(LINES))
    run(page, "rerank")
    program = code(page, "JavaScript")
    answer = page.evaluate(f"(async () => {{ {program} return answer; }})()")
    assert [f"{result['relevance_score']:.4f}" for result in answer["results"]] == [
        score.replace("−", "-") for score in texts(page, ".bars .score")
    ]
    assert code(page, "Python").startswith("import httpx")
    assert "ClientV2" in code(page, "Cohere")
