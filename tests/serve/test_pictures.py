"""Pictures over HTTP: content parts of every route, their bounds, and that a broken one hurts nobody else."""

from __future__ import annotations

import base64
import http.client
import io
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from poolrt.runtime import load
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.model import Model
from poolrt.serve.media.fetching import Fetcher
from poolrt.serve.settings import Media, Settings

from tests.runtime import picture_models as tiny

from .conftest import Live, live
from .test_fetching import Remote, ok, remote, to
from .test_fuzz import LEAKS
from .test_operations import until

SAME = 1e-5  # unit vectors in float32, as JSON
ROUNDED = 1e-3  # compositing may round a byte to the other side

TEMPLATE = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}" + tiny.PICTURES.placeholder + "{% elif "
    "part.type == 'video' %}" + tiny.PICTURES.videos.placeholder + "{% else %}{{ part.text }}{% endif %}"  # pyright: ignore[reportOptionalMemberAccess]
    "{% endfor %}{% endif %}{% endfor %}"
)


def png(array: Any, **more: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(file, "PNG", **more)
    return file.getvalue()


def written(array: Any, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(file, kind)
    return file.getvalue()


def url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


RED = np.full((40, 70, 3), (250, 10, 10), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (33, 90, 3), dtype=np.uint8)
RED_URL, NOISE_URL = url(png(RED)), url(png(NOISE))


def picture(address: str = RED_URL, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": address}, **more}


def text(words: str = "a red page") -> dict[str, Any]:
    return {"type": "text", "text": words}


def chat(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def opened(folder: Path, **more: Any) -> Model:
    return load(tiny.write(folder, **{"chat_template": TEMPLATE, **more}), threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def embedder_model(folder: Path) -> Iterator[Model]:
    with opened(folder / "embedder", name="embedder") as model:
        yield model


@pytest.fixture(scope="module")
def embedder(embedder_model: Model) -> Iterator[Live]:
    with live(embedder_model) as server:
        yield server


@pytest.fixture(scope="module")
def late(folder: Path) -> Iterator[Live]:
    with opened(folder / "late", name="late", scoring="late-interaction") as model, live(model) as server:
        yield server


@pytest.fixture(scope="module")
def reranker(folder: Path) -> Iterator[Live]:
    with opened(folder / "pairs", name="pairs", scoring="cross-encoder") as model, live(model) as server:
        yield server


@pytest.fixture(scope="module")
def clip(folder: Path) -> Iterator[Live]:
    more: dict[str, Any] = {"name": "clip", "images": tiny.APART, "chat_template": None}
    with opened(folder / "clip", **more) as model, live(model) as server:
        yield server


def vector(server: Live, messages: Any, **more: Any) -> Any:
    answer = server.ask("/v1/embeddings", {"messages": messages, **more})
    return np.array(answer["data"][0]["embedding"]), answer["usage"]["prompt_tokens"]


def test_a_message_may_hold_a_picture(embedder: Live, embedder_model: Model):
    values, tokens = vector(embedder, chat(picture(), text()))
    prompt = {"prompt": tiny.PICTURES.placeholder + "a red page", "multi_modal_data": {"image": [RED]}}
    direct = embedder_model.embed([prompt], add_special_tokens=False)
    np.testing.assert_allclose(values, np.asarray(direct)[0], atol=SAME)
    # Usage counts the tokens that stand for the picture's features.
    assert tokens == direct.prompt_tokens > 5
    answer = embedder.ask("/tokenize", {"messages": chat(picture(), text()), "add_generation_prompt": False})
    assert answer["count"] == tokens
    other, _ = vector(embedder, chat(picture(NOISE_URL), text()))
    assert not np.allclose(values, other, atol=1e-3)


@pytest.mark.parametrize(
    "part",
    [
        picture(), {"image_url": RED_URL}, {"type": "input_image", "image_url": RED_URL},
        {"type": "image_url", "image_url": RED_URL}, picture(uuid="u1"),
        picture(url(png(RED)).replace("data:image/png", "DATA:image/x-any")),
        {"type": "image_url", "image_url": {"url": RED_URL, "detail": "low"}},
    ],
)  # fmt: skip
def test_a_picture_may_be_written_in_many_ways(embedder: Live, part: Any):
    expected, _ = vector(embedder, chat(picture(), text()))
    values, _ = vector(embedder, chat(part, text()))
    np.testing.assert_allclose(values, expected, atol=SAME)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_of_every_usual_format_are_read(embedder: Live, kind: str):
    values, _ = vector(embedder, chat(picture(url(written(RED, kind))), text()))
    assert abs(np.linalg.norm(values) - 1) < 1e-4


def test_several_pictures_and_conversations_keep_their_order(embedder: Live):
    both = [chat(picture(), picture(NOISE_URL)), chat(picture(NOISE_URL), picture()), chat(text())]
    answer = embedder.ask("/v1/embeddings", {"messages": both})
    values = [np.array(item["embedding"]) for item in answer["data"]]
    for conversation, together in zip(both, values, strict=True):
        alone, _ = vector(embedder, conversation)
        np.testing.assert_allclose(together, alone, atol=SAME)
    assert not np.allclose(values[0], values[1], atol=1e-4)
    in_input = embedder.ask("/v1/embeddings", {"input": both})
    np.testing.assert_allclose(in_input["data"][1]["embedding"], values[1], atol=SAME)


def test_a_video_may_be_sent_as_frames(embedder: Live, embedder_model: Model):
    frames = [png(np.full((32, 32, 3), value, np.uint8)) for value in (10, 80, 150, 220)]
    address = "data:video/jpeg;base64," + ",".join(base64.b64encode(frame).decode() for frame in frames)
    part = {"type": "video_url", "video_url": {"url": address}}
    values, tokens = vector(embedder, chat(part, text()))
    stacked = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (10, 80, 150, 220)])
    assert tiny.PICTURES.videos is not None
    prompt = {
        "prompt": tiny.PICTURES.videos.placeholder + "a red page",
        "multi_modal_data": {"video": [(stacked, {"fps": 1.0})]},
    }
    direct = embedder_model.embed([prompt], add_special_tokens=False)
    np.testing.assert_allclose(values, np.asarray(direct)[0], atol=SAME)
    assert tokens == direct.prompt_tokens
    frame = "data:video/jpeg;base64," + base64.b64encode(frames[0]).decode()
    error = embedder.refused(
        "/v1/embeddings", {"messages": chat({"type": "video_url", "video_url": {"url": frame}})}
    )
    assert "messages[0].content[0]" in error["message"]


def test_scores_of_texts_and_pictures(late: Live):
    body = {
        "model": "late",
        "data_1": "a red page",
        "data_2": [{"content": [picture(), text()]}, {"content": [picture(NOISE_URL)]}, "a red page"],
    }
    scores = [item["score"] for item in late.ask("/score", body)["data"]]
    assert len(scores) == 3
    for document, score in zip(body["data_2"], scores, strict=True):
        [alone] = late.ask("/score", body | {"data_2": document})["data"]
        assert abs(alone["score"] - score) < 1e-4
    ranked = late.ask("/rerank", {"query": "a red page", "documents": body["data_2"], "top_n": 2})
    best = sorted(range(3), key=lambda index: -scores[index])[:2]
    assert [item["index"] for item in ranked["results"]] == best
    for result in ranked["results"]:
        sent = body["data_2"][result["index"]]
        parts = sent["content"] if isinstance(sent, dict) else None
        assert result["document"] == {"text": None if parts else sent, "multi_modal": parts}
    # A picture may ask for pictures.
    swapped = late.ask("/rerank", {"query": {"content": [picture()]}, "documents": body["data_2"]})
    assert len(swapped["results"]) == 3


def test_a_pair_of_pictures_is_read_together(reranker: Live):
    body = {
        "queries": {"content": [picture(NOISE_URL)]},
        "documents": [{"content": [picture(), text()]}, "x"],
    }
    first = reranker.ask("/score", body)
    assert len(first["data"]) == 2
    assert first["usage"]["prompt_tokens"] > 6
    swapped = reranker.ask("/score", {"queries": body["documents"][0], "documents": body["queries"]})
    assert abs(swapped["data"][0]["score"] - first["data"][0]["score"]) > 1e-6
    error = reranker.refused("/score", {"queries": [body["queries"]] * 2, "documents": body["documents"] * 2})
    assert "Input lengths must be either 1:1, 1:N or N:N" in error["message"]


def test_pooling_takes_pictures(late: Live):
    answer = late.ask("/pooling", {"model": "late", "messages": chat(picture(), text())})
    rows = answer["data"][0]["data"]
    assert len(rows) == answer["usage"]["prompt_tokens"]


def test_cohere_takes_images_and_inputs(embedder: Live):
    images = embedder.ask("/v2/embed", {"images": [RED_URL, NOISE_URL], "embedding_types": ["float"]})
    units = images["meta"]["billed_units"]
    assert units["input_tokens"] == 0
    assert units["image_tokens"] > 2
    assert "texts" not in images
    values, _ = vector(embedder, chat(picture()))
    np.testing.assert_allclose(images["embeddings"]["float"][0], values, atol=SAME)
    mixed = embedder.ask("/v2/embed", {"inputs": [{"content": [picture(), text()]}, {"content": [text()]}]})
    assert mixed["meta"]["billed_units"]["input_tokens"] == 0
    values, _ = vector(embedder, chat(picture(), text()))
    np.testing.assert_allclose(mixed["embeddings"]["float"][0], values, atol=SAME)
    words = embedder.ask("/v2/embed", {"texts": ["a red page"]})
    assert words["meta"]["billed_units"]["image_tokens"] == 0
    error = embedder.refused("/v2/embed", {"images": [RED_URL, "data:image/png;base64,AAAA"]})
    assert "images[1]" in error["message"]


def test_clip_embeds_pictures_or_texts_never_both(clip: Live):
    values, tokens = vector(clip, chat(picture()))
    assert tokens == 1
    images = clip.ask("/v2/embed", {"images": [RED_URL]})
    np.testing.assert_allclose(images["embeddings"]["float"][0], values, atol=SAME)
    assert images["meta"]["billed_units"] == {"input_tokens": 0, "image_tokens": 1}
    error = clip.refused("/v1/embeddings", {"messages": chat(picture(), text())})
    assert "not both" in error["message"]
    error = clip.refused("/v1/embeddings", {"messages": chat(picture(), picture())})
    assert error["message"].startswith("At most 1 image(s) may be provided in one prompt. (parameter=image)")
    assert error["param"] == "image"
    # The model has no template: what its messages hold is written one behind the other.
    words, _ = vector(clip, [*chat(text("a red")), *chat(text(" page"))])
    expected = clip.ask("/v1/embeddings", {"input": "a red page", "add_special_tokens": False})
    np.testing.assert_allclose(words, expected["data"][0]["embedding"], atol=SAME)
    scores = clip.ask("/score", {"queries": "a red page", "documents": [{"content": [picture()]}]})
    assert len(scores["data"]) == 1


def test_a_uuid_stands_for_a_picture_that_was_sent_before(embedder: Live):
    sent, _ = vector(embedder, chat(picture(NOISE_URL, uuid="page-7"), text()))
    for part in (
        {"type": "image_url", "image_url": None, "uuid": "page-7"},
        {"type": "image_url", "uuid": "page-7"},
        {"type": "image_url", "image_url": {"url": ""}, "uuid": "page-7"},
    ):
        again, _ = vector(embedder, chat(part, text()))
        np.testing.assert_allclose(again, sent, atol=SAME)
    # What is sent counts, whatever was sent under that uuid before.
    other, _ = vector(embedder, chat(picture(RED_URL, uuid="page-7"), text()))
    expected, _ = vector(embedder, chat(picture(), text()))
    np.testing.assert_allclose(other, expected, atol=SAME)
    error = embedder.refused(
        "/v1/embeddings", {"messages": chat({"type": "image_url", "image_url": None, "uuid": "nobody"})}
    )
    assert error["message"].startswith("Cache miss for image at index 0 but data is not provided.")
    headers = {"authorization": "Bearer another"}
    error = embedder.refused(
        "/v1/embeddings", {"messages": chat({"type": "image_url", "uuid": "page-7"})}, headers=headers
    )
    assert "Cache miss for image at index 0" in error["message"]


def test_vectors_of_a_picture_may_be_sent_in_its_place(embedder: Live, embedder_model: Model):
    item = prepared.image(tiny.PICTURES, RED).items[0]
    features, grid = tiny.seen(item), [1, *item.arrays["patch_positions"][0, 2:].tolist()]

    def encoded(array: Any) -> str:
        file = io.BytesIO()
        np.save(file, np.asarray(array))
        return base64.b64encode(file.getvalue()).decode()

    value = {"image_embeds": encoded(features), "image_grid_thw": encoded(np.array([grid]))}
    expected, tokens = vector(embedder, chat(picture(), text()))
    with live(embedder_model, settings=Settings(media=Media(embeds=True, limits={"image": 2}))) as server:
        for grid_of in (value["image_grid_thw"], grid, [grid]):
            part = {"type": "image_embeds", "image_embeds": value | {"image_grid_thw": grid_of}}
            values, count = vector(server, chat(part, text()))
            np.testing.assert_allclose(values, expected, atol=SAME)
            assert count == tokens
        for broken in ("AAAA", {"image_embeds": "AAAA"}, {"image_embeds": encoded(features[:, :3])}, 5, {}):
            bad = {"type": "image_embeds", "image_embeds": broken}
            error = server.refused("/v1/embeddings", {"messages": chat(text(), bad)})
            assert "image_embeds" in error["message"]
        error = server.refused("/v1/embeddings", {"messages": chat(*[part] * 3)})
        assert error["param"] == "image"


def bomb(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel whose data says nothing: only its header is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='9' height='9'/></svg>"
HOSTILE = {
    "empty": url(b""),
    "no base64": "data:image/png;base64,@@@@",
    "percent": "data:image/png;base64,AA%3D%3D",
    "no comma": "data:image/png;base64",
    "not base64": "data:image/png,abc",
    "text": url(b"hello"),
    "html": url(b"<html><body>no</body></html>", "text/html"),
    "svg": url(SVG, "image/svg+xml"),
    "truncated": url(png(NOISE)[:-500]),
    "broken": url(png(NOISE)[:200] + b"\x00" * 300 + png(NOISE)[500:]),
    "strip": url(bomb(65_535, 1)),
    "bomb": url(bomb(60_000, 60_000)),
    "eps": url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "ftp": "ftp://a.example/x.png",
    "gopher": "gopher://127.0.0.1:11211/_stats",
    "file": "file:///etc/passwd",
    "http off": "http://127.0.0.1:1/x.png",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "script": "javascript:alert(1)",
    "plain": "x.png",
}


@pytest.mark.parametrize("address", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_picture_that_is_none_is_a_400_that_names_it(embedder: Live, address: str):
    body = {"messages": chat(text(), picture(), picture(address))}
    error = embedder.refused("/v1/embeddings", body)
    assert "messages[0].content[2]" in error["message"], error
    assert "0x" not in error["message"]
    error = embedder.refused("/v2/embed", {"images": [RED_URL, address]})
    assert "images[1]" in error["message"]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "smell", "smell": 1}, "type"),
        ({"image_url": {"url": RED_URL}}, "type"),
        ({"type": "audio_url", "audio_url": {"url": "http://a.example/x.wav"}}, "audio"),
        ({"type": "image_embeds", "image_embeds": "AAAA"}, "image_embeds"),
        ({"type": "image_url", "image_url": {}}, None),
    ],
)
def test_parts_that_cannot_be_read_are_refused_by_name(embedder: Live, part: Any, param: str | None):
    error = embedder.refused("/v1/embeddings", {"messages": chat(part)})
    assert error["param"] == param
    assert "messages[0].content[0]" in error["message"]


def test_the_place_of_a_part_is_told_for_every_form(embedder: Live, late: Live):
    broken = picture(HOSTILE["text"])
    for body, place in (
        ({"messages": [chat(picture()), chat(broken)]}, "messages[1][0].content[0]"),
        ({"input": chat(broken)}, "input[0].content[0]"),
        ({"input": [chat(picture()), chat(text(), broken)]}, "input[1][0].content[1]"),
    ):
        assert place in embedder.refused("/v1/embeddings", body)["message"]
    for body, place in (
        ({"data_1": "x", "data_2": [{"content": [text()]}, {"content": [broken]}]}, "data_2[1].content[0]"),
        ({"queries": {"content": [broken]}, "documents": "x"}, "queries.content[0]"),
    ):
        assert place in late.refused("/score", body)["message"]
    body = {"query": "x", "documents": [{"content": [picture()]}, {"content": [text(), broken]}]}
    assert "documents[1].content[1]" in late.refused("/rerank", body)["message"]
    assert "messages[0].content[0]" in embedder.refused("/tokenize", {"messages": chat(broken)})["message"]


@contextmanager
def fetching(
    model: Model, answer: Callable[[str], list[bytes]], **media: Any
) -> Iterator[tuple[Live, Remote]]:
    """A server that may fetch from another one, `a.example`, which is on loopback."""
    with remote(answer) as other:
        domains = (f"a.example:{other.port}",)
        with live(model, settings=Settings(media=Media(domains=domains, **media))) as server:
            fetcher = Fetcher(domains, resolve=to("127.0.0.1"), refuse=lambda address: None)
            server.here.workshop.media.fetcher = fetcher
            yield server, other


def test_pictures_of_other_servers_are_fetched(embedder: Live, embedder_model: Model):
    pictures = {"/red.png": png(RED), "/noise.png": png(NOISE)}

    def answer(target: str) -> list[bytes]:
        if target not in pictures:
            return [b"HTTP/1.1 %s Some\r\nContent-Length: 0\r\n\r\n" % target.strip("/").encode()]
        return ok(pictures[target])

    with fetching(embedder_model, answer) as (server, other):
        address = f"http://a.example:{other.port}"
        parts = [
            picture(f"{address}/red.png"),
            picture(f"{address}/noise.png"),
            picture(f"{address}/red.png"),
        ]
        values, _ = vector(server, chat(*parts))
        expected, _ = vector(embedder, chat(picture(), picture(NOISE_URL), picture()))
        np.testing.assert_allclose(values, expected, atol=SAME)
        # The same URL is fetched once for a request.
        assert sorted(head.split()[1] for head in other.heads) == [b"/noise.png", b"/red.png"]
        for status, ours, param in ((404, 422, "image_url"), (503, 502, None), (429, 502, None)):
            body = {"messages": chat(picture(), picture(f"{address}/{status}"))}
            error = server.refused("/v1/embeddings", body, ours)
            assert error["message"].startswith(f"Failed to fetch media from URL: HTTP {status} error")
            assert "messages[0].content[1]" in error["message"]
            assert error["param"] == param
        video = {"type": "video_url", "video_url": {"url": f"{address}/404"}}
        assert server.refused("/v1/embeddings", {"messages": chat(video)}, 422)["param"] == "video_url"
        error = server.refused("/v1/embeddings", {"messages": chat(picture("http://b.example/red.png"))})
        assert "allowed domains" in error["message"]
        lines = server.client.get("/metrics").text
    assert 'poolrt_media_items_total{modality="image",source="http"} 2.0' in lines


def test_a_picture_that_does_not_come_is_a_timeout_and_holds_nobody_up(embedder_model: Model):
    over = threading.Event()

    def answer(target: str) -> Any:
        yield b"HTTP/1.1 200 OK\r\n"
        over.wait(30)

    with fetching(embedder_model, answer, image_timeout_s=0.3) as (server, other):
        part = picture(f"http://a.example:{other.port}/x.png")
        error = server.refused("/v1/embeddings", {"messages": chat(part)}, 504)
        assert "messages[0].content[0]" in error["message"]
        over.set()


def test_a_client_that_leaves_ends_the_fetching(embedder_model: Model):
    over = threading.Event()

    def answer(target: str) -> Any:
        yield b"HTTP/1.1 200 OK\r\n"
        over.wait(30)

    with fetching(embedder_model, answer, image_timeout_s=30.0) as (server, other):
        body = {"messages": chat(picture(f"http://a.example:{other.port}/x.png"))}
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/v1/embeddings", json.dumps(body), {"content-type": "application/json"})
        until(lambda: bool(other.heads))
        assert server.here.state.in_flight == 1
        connection.close()
        # The other server still sends nothing.
        until(lambda: server.here.state.in_flight == 0)
        over.set()


def test_settings_of_a_request_need_trust(embedder: Live, embedder_model: Model):
    body = {"messages": chat(picture(), text()), "mm_processor_kwargs": {"max_pixels": 64 * 4}}
    error = embedder.refused("/v1/embeddings", body)
    assert error["param"] == "mm_processor_kwargs"
    assert "--trust-request-mm-kwargs" in error["message"]
    error = embedder.refused(
        "/v1/embeddings", {"messages": chat(picture()), "media_io_kwargs": {"video": {"num_frames": 2}}}
    )
    assert error["param"] == "media_io_kwargs"
    with live(embedder_model, settings=Settings(media=Media(trust_request_kwargs=True))) as server:
        smaller = server.ask("/v1/embeddings", body)["usage"]["prompt_tokens"]
        assert smaller < vector(embedder, chat(picture(), text()))[1]
        error = server.refused("/v1/embeddings", body | {"mm_processor_kwargs": {"smell": 1}})
        assert "mm_processor_kwargs" in error["message"]


def test_transparent_pictures_stand_on_a_color(embedder: Live, embedder_model: Model):
    clear = np.dstack([NOISE, np.arange(33 * 90, dtype=np.uint8).reshape(33, 90)])
    alpha = clear[:, :, 3:] / 255
    for color, media in (
        ((255, 255, 255), Media()),
        ((0, 128, 7), Media(io_kwargs={"image": {"rgba_background_color": [0, 128, 7]}})),
    ):
        opaque = np.rint(NOISE * alpha + np.array(color) * (1 - alpha)).astype(np.uint8)
        expected, _ = vector(embedder, chat(picture(url(png(opaque)))))
        with live(embedder_model, settings=Settings(media=media)) as server:
            values, _ = vector(server, chat(picture(url(png(clear)))))
        np.testing.assert_allclose(values, expected, atol=ROUNDED)


def test_files_are_read_below_the_folder_of_the_operator(embedder_model: Model, tmp_path: Path):
    (tmp_path / "red.png").write_bytes(png(RED))
    with live(embedder_model, settings=Settings(media=Media(folder=tmp_path))) as server:
        values, _ = vector(server, chat(picture(f"file://{tmp_path}/red.png"), text()))
        expected, _ = vector(server, chat(picture(), text()))
        np.testing.assert_allclose(values, expected, atol=SAME)
        error = server.refused("/v1/embeddings", {"messages": chat(picture("file:///etc/passwd"))})
        assert "--allowed-local-media-path" in error["message"]
        assert str(tmp_path) not in error["message"]


def test_limits_of_a_request_are_kept(embedder_model: Model):
    media = Media(limits={"image": 2}, max_bytes=8500, max_pixels=6000)
    with live(embedder_model, settings=Settings(media=media)) as server:
        error = server.refused("/v1/embeddings", {"messages": chat(*[picture("http://a.example/")] * 3)})
        assert error["message"].startswith(
            "At most 2 image(s) may be provided in one prompt. Set `--limit-mm-per-prompt`"
        )
        assert error["param"] == "image"
        # 40 x 70 pixels are 2 800: two of them fit, three do not.
        small = [picture(url(png(RED + shade))) for shade in range(3)]
        assert vector(server, chat(small[0], small[1]))
        error = server.refused("/v1/embeddings", {"messages": [chat(part) for part in small]})
        assert "more than 6000 pixels together" in error["message"]
        assert "messages[2][0].content[0]" in error["message"]
        error = server.refused("/v1/embeddings", {"messages": chat(picture(NOISE_URL))}, 422)
        assert "--max-media-bytes" in error["message"]


def test_prepared_pictures_are_bounded_while_they_are_held(embedder_model: Model):
    with live(embedder_model, settings=Settings(media=Media(max_prepared_bytes=60_000))) as server:
        everything = server.here.workshop.media.prepared
        # A picture takes 49 kB. Those of many prompts are held a few at a time, those of one together.
        small = [chat(text(), picture(url(png(np.full((4, 4, 3), shade))))) for shade in range(60)]
        assert len(server.ask("/v1/embeddings", {"messages": small})["data"]) == 60
        assert vector(server, chat(picture(), text()))
        error = server.refused("/v1/embeddings", {"messages": chat(picture(), picture(NOISE_URL))})
        assert "once they are prepared" in error["message"]
        until(lambda: everything.used == 0)
        held = everything.share()
        array = np.zeros(59_000, np.uint8)
        held.take([array])
        other = np.zeros(59_000, np.uint8)
        everything.share().take([other])
        refusal = server.refused("/v1/embeddings", {"messages": chat(picture())}, 429)
        assert "try again" in refusal["message"]
        del array, other
        assert everything.used == 0
        assert vector(server, chat(picture(), text()))


def test_a_broken_picture_hurts_no_neighbour_and_leaves_nothing(embedder: Live):
    expected, _ = vector(embedder, chat(picture(), text()))
    for address in HOSTILE.values():
        embedder.refused("/v1/embeddings", {"messages": chat(picture(address))})
        values, _ = vector(embedder, chat(picture(), text()))
        np.testing.assert_allclose(values, expected, atol=SAME)
    workshop = embedder.here.workshop
    assert (workshop.media.prepared.used, workshop.budget.used, workshop.preparing_tokens) == (0, 0, 0)


def test_pictures_are_counted(embedder_model: Model):
    with live(embedder_model) as server:
        vector(server, chat(picture(), picture(NOISE_URL)))
        vector(server, chat(picture()))
        lines = server.client.get("/metrics").text.splitlines()
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[0] != "#"}
    assert values['poolrt_media_items_total{modality="image",source="data"}'] == 3
    assert values['poolrt_media_bytes_total{modality="image",source="data"}'] > 1000
    assert values['poolrt_media_prepare_seconds_count{modality="image"}'] == 3
    queries = values['vllm:mm_cache_queries_total{engine="0",model_name="embedder"}']
    hits = values['vllm:mm_cache_hits_total{engine="0",model_name="embedder"}']
    assert queries >= hits >= 1


def test_nothing_of_a_picture_is_logged(embedder_model: Model, caplog: pytest.LogCaptureFixture):
    with live(embedder_model, settings=Settings(log_requests=True)) as server, caplog.at_level("INFO"):
        vector(server, chat(picture(), text("a blue page")))
    lines = [record.getMessage() for record in caplog.records if "inputs" in record.getMessage()]
    assert "a blue page" in lines[0]
    assert "<Deferred>" in lines[0]
    assert len(lines[0]) < 500


FILES = {"PNG": png(NOISE)} | {kind: written(NOISE, kind) for kind in ("JPEG", "WEBP", "GIF", "BMP", "TIFF")}


@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=6)), max_size=4),
    st.sampled_from(["/v1/embeddings", "/v2/embed", "/tokenize", "/score"]),
)
@settings(max_examples=60, deadline=None)
def test_no_damaged_picture_is_a_fault_of_the_server(
    embedder: Live, kind: str, changes: list[tuple[float, bytes]], path: str
):
    content = bytearray(FILES[kind])
    for place, change in changes:
        start = int(place * len(content))
        content[start : start + len(change)] = change
    part = picture(url(bytes(content)))
    bodies: dict[str, Any] = {
        "/v2/embed": {"images": [url(bytes(content))]},
        "/score": {"queries": "a", "documents": {"content": [part, text()]}},
    }
    got = embedder.post(path, bodies.get(path, {"messages": chat(text(), part)}))
    assert got.status_code in (200, 400), got.text
    assert not LEAKS.search(got.text) or got.status_code == 200, got.text


def test_a_text_model_still_reads_text_only(everything: Live):
    error = everything.refused(
        "/v1/embeddings", {"model": "minilm_like", "messages": chat(picture()), "chat_template": "x"}
    )
    assert error["code"] == 400
    error = everything.refused("/v2/embed", {"model": "minilm_like", "images": [RED_URL]})
    assert "reads text only" in error["message"]
    error = everything.refused(
        "/score", {"model": "minilm_like", "queries": "a", "documents": {"content": [picture()]}}
    )
    assert "MultiModalParam is not supported for" in error["message"]


def test_the_openapi_page_tells_of_pictures(embedder: Live):
    document = json.dumps(embedder.client.get("/openapi.json").json())
    for word in ("image_url", "video_url", "uuid", "mm_processor_kwargs", "--trust-request-mm-kwargs"):
        assert word in document
