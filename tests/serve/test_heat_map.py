"""The numbers behind the heat map: each patch where it lies on the page, and all of it adding up to the
score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from poolrt.runtime.artifact.images import Images, Tiling
from poolrt.runtime.artifact.manifest import Role
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.loader import load
from poolrt.serve.pages import heat_map
from poolrt.serve.settings import Settings

from tests.serve import page_model
from tests.serve.conftest import Live, live, serving

SAME = 1e-5  # unit vectors in float32
ROUNDED = 6e-5  # cells have four decimals
QUERY = "what is red or blue"
PAGE = page_model.page(9, 14, red=(1, 3), blue=(7, 12))
HALF = (0.5, 0.5, 0.5)
TILES = Images(
    scheme="tiles", resample="lanczos", mean=HALF, std=HALF, height=64, width=64, tokens=16,
    token="<i>", placeholder="<i>",
    tiling=Tiling(rule="idefics3", longest_edge=192, tile_text="<{row},{column}>{tokens}",
                  overview_text="<all>{tokens}", single_text="{tokens}"),
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with (
        load(page_model.write(tmp_path_factory.mktemp("pages")), threads=1) as model,
        live(model) as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def answer(server: Live) -> dict[str, Any]:
    return server.ask("/playground/heatmap", {"query": QUERY, "image": page_model.url(PAGE)})


def vectors(server: Live) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[query tokens, dim], [document tokens, dim], and the ids of the document's tokens."""
    model = server.here.registry.models[0].model
    query = model.token_embed(QUERY, role="query")[0]
    page = model.token_embed({"image": PAGE}, role="document")[0]
    return query.outputs.data, page.outputs.data, np.array(page.prompt_token_ids)


def test_cells_are_the_dot_products_of_token_vectors(server: Live, answer: dict[str, Any]) -> None:
    query, page, ids = vectors(server)
    pad = server.here.registry.models[0].model.preparation.encoder.tokenizer.token_to_id("<|image_pad|>")
    expected = query @ page[ids == pad].T
    (area,) = answer["areas"]
    assert (area["rows"], area["columns"], area["region"]) == (9, 14, [0, 0, 1, 1])
    np.testing.assert_allclose(area["maps"], expected, atol=ROUNDED)
    assert (answer["height"], answer["width"]) == PAGE.shape[:2]


def test_shares_add_up_to_the_score(server: Live, answer: dict[str, Any]) -> None:
    query, page, _ = vectors(server)
    best = (query @ page.T).max(axis=1)
    np.testing.assert_allclose([share["value"] for share in answer["best"]], best, atol=SAME)
    served = server.here.registry.models[0].model.score(QUERY, {"image": PAGE})[0].outputs.score
    assert answer["score"] == pytest.approx(served, abs=SAME)


def test_a_word_looks_at_the_patch_of_its_colour(answer: dict[str, Any]) -> None:
    best = dict(zip(answer["pieces"], answer["best"], strict=True))
    assert [best["red"][key] for key in ("area", "row", "column")] == [0, 1, 3]
    assert [best["blue"][key] for key in ("area", "row", "column")] == [0, 7, 12]
    assert best["<s>"] == {
        "value": pytest.approx(1, abs=SAME), "area": None, "row": None, "column": None, "piece": "<s>",
    }  # fmt: skip


@pytest.mark.parametrize(("height", "width"), [(130, 192), (192, 100), (64, 64)])
def test_tiles_are_put_together_on_the_page(height: int, width: int) -> None:
    """Of a query token that is the more alike the farther right a feature lies on the page (of another: the
    farther down), the maps grow evenly over all tiles, and over the whole."""
    medium = prepared.image(TILES, np.zeros((height, width, 3), np.uint8))
    places = np.arange(medium.tokens)[::-1] + 5  # as if the tokens stood in another order behind others
    similarities = np.zeros((2, medium.tokens + 6), np.float32)
    feature = 0
    for (rows, columns), (left, top, right, bottom) in zip(medium.grids, medium.regions, strict=True):
        for row in range(rows):
            for column in range(columns):
                x = left + (right - left) * (column + 0.5) / columns
                y = top + (bottom - top) * (row + 0.5) / rows
                similarities[:, places[feature]] = x, y
                feature += 1
    answer = heat_map.content(
        similarities, places, medium, ids=[1, 2], pieces=["x", "y"],
        document_pieces=[str(token) for token in range(similarities.shape[1])],
    )  # fmt: skip
    for area in answer["areas"]:
        across, down = np.asarray(area["maps"]).reshape(2, area["rows"], area["columns"])
        left, top, right, bottom = area["region"]
        assert (across[0, 0], across[0, -1]) == pytest.approx(
            (left + (right - left) / 8, right - (right - left) / 8), abs=ROUNDED
        )
        assert (down[0, 0], down[-1, 0]) == pytest.approx(
            (top + (bottom - top) / 8, bottom - (bottom - top) / 8), abs=ROUNDED
        )
        assert (np.ptp(across, axis=0) == 0).all()
        assert (np.ptp(down, axis=1) == 0).all()
    parts = [area for area in answer["areas"] if area["region"] != [0, 0, 1, 1]]
    assert sum(
        (right - left) * (bottom - top) for left, top, right, bottom in (a["region"] for a in parts)
    ) == (pytest.approx(1 if parts else 0))


def test_both_sides_may_be_prepared_as_the_authors_do(tmp_path) -> None:
    roles = {"query": Role(template="query : {{ text }}"), "document": Role(template="{{ media }} passage")}
    body = {"query": QUERY, "image": page_model.url(PAGE)}
    folder = page_model.tiny.write(tmp_path, scoring="late-interaction", roles=roles, images=page_model.PAGES)
    with load(folder, threads=1) as model, live(model) as server:
        for preparation in ("model", "vllm"):
            answer = server.ask("/playground/heatmap", {**body, "preparation": preparation})
            score = model.score(QUERY, {"image": PAGE}, preparation=preparation)[0].outputs.score
            assert answer["score"] == pytest.approx(score, abs=SAME)
            assert ("query" in answer["pieces"]) == (preparation == "model")
        plain = server.ask("/playground/heatmap", body)
        assert plain["score"] == answer["score"], "as /score, whose preparation is vLLM's here"
        assert server.refused("/playground/heatmap", {**body, "preparation": "mine"})["code"] == 400


def test_a_picture_is_described_as_it_is_read(server: Live) -> None:
    answer = server.ask("/playground/picture", {"image": page_model.url(PAGE), "model": "pages"})
    assert answer == {
        "height": 72, "width": 112, "tokens": 126, "apart": False, "grids": [[9, 14]],
        "regions": [[0, 0, 1, 1]],
    }  # fmt: skip


def test_what_is_no_picture_is_refused_in_words(server: Live) -> None:
    urls = {
        "data:image/png;base64,AAAA": "cannot identify image file",
        "data:,x": "base64",
        "/etc/passwd": "must be either a HTTP, data or file URL",
        "file:///etc/passwd": "--allowed-local-media-path",
        "http://127.0.0.1/": "fetches nothing from other servers",
    }
    for path in ("/playground/picture", "/playground/heatmap"):
        for url, why in urls.items():
            assert why in server.refused(path, {"query": "a", "image": url})["message"]
    assert server.refused("/playground/heatmap", {"image": page_model.url(PAGE)})["code"] == 400


def test_a_model_of_text_reads_no_pictures(embedder: Live, everything: Live) -> None:
    body = {"query": "a", "image": page_model.url(PAGE)}
    assert "reads no pictures" in embedder.refused("/playground/picture", body)["message"]
    assert (
        "reads no pictures"
        in everything.refused("/playground/heatmap", {**body, "model": "colbert"})["message"]
    )


def test_the_playgrounds_routes_need_the_key(server: Live) -> None:
    with serving(server.here.registry, Settings(api_keys=("k",))) as guarded:
        for path in ("/playground/picture", "/playground/heatmap", "/playground/pdf"):
            assert guarded.post(path, {}).status_code == 401


def test_bodies_have_the_servers_limit(server: Live) -> None:
    with serving(server.here.registry, Settings(max_body_bytes=3000)) as small:
        noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
        for path in ("/playground/picture", "/playground/heatmap", "/playground/pdf"):
            body = {"query": "a", "image": page_model.url(noise), "pdf": page_model.url(noise)}
            assert small.post(path, body).status_code == 413


def test_facts_say_which_models_read_pictures(server: Live, embedder: Live) -> None:
    (facts,) = server.client.get("/playground.json").json()["models"]
    assert facts["images"] == {"scheme": "patches", "apart": False, "chat": False, "sides": []}
    assert embedder.client.get("/playground.json").json()["models"][0]["images"] is None


def test_a_picture_of_a_model_that_keeps_them_apart_is_one_vector(tmp_path) -> None:
    images = replace(page_model.tiny.APART, shortest_edge=8)
    with load(page_model.tiny.write(tmp_path, images=images), threads=1) as model, live(model) as server:
        answer = server.ask("/playground/picture", {"image": page_model.url(PAGE)})
        assert (answer["apart"], answer["grids"], len(answer["regions"])) == (True, [], 1)
        left, top, right, bottom = answer["regions"][0]
        assert (top, bottom) == (0, 1)
        assert 0 < left < right < 1, "the middle is cut out"
