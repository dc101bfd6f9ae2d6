"""The commands of vLLM's documentation for models that read pictures: command lines and bodies as they stand
there, with a picture in the place of `<BASE64>`, on tiny checkpoints in the layout of those models."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import load
from poolrt.runtime.inputs import templates
from poolrt.serve.cli import parse, settings_of
from poolrt.serve.settings import Settings

from tests.painted import painted, png

from .conftest import Live, live
from .picture_cases import RERANKER
from .test_picture_goldens import artifact

LATE, PAIRS = "TomoroAI/tomoro-colqwen3-embed-4b", "Qwen/Qwen3-VL-Reranker-2B"
SAME = 1e-5  # scores in float32, computed in batches of other sizes
TEMPLATES = "examples/pooling/score/template"
LINES: dict[str, tuple[dict[str, Any] | None, str | None]] = {
    f"vllm serve {LATE} --max-model-len 4096": (None, None),
    f"""vllm serve {PAIRS} --hf_overrides '{{"architectures": ["Qwen3VLForSequenceClassification"],"""
    """"classifier_from_token": ["no", "yes"],"is_original_qwen3_reranker": true}'""": (RERANKER, None),
    f"vllm serve {PAIRS} --runner pooling --chat-template {TEMPLATES}/qwen3_vl_reranker.jinja": (
        None,
        "qwen3_vl_reranker.jinja",
    ),
    "vllm serve nvidia/llama-nemotron-embed-vl-1b-v2 --trust-remote-code "
    "--chat-template examples/pooling/embed/template/nemotron_embed_vl.jinja": (
        None,
        "nemotron_embed_vl.jinja",
    ),
    "vllm serve nvidia/llama-nemotron-rerank-vl-1b-v2 --runner pooling --trust-remote-code "
    f"--chat-template {TEMPLATES}/nemotron-vl-rerank.jinja": (None, "nemotron-vl-rerank.jinja"),
    "vllm serve jinaai/jina-reranker-m0": (None, None),
}
"""Command line -> its --hf-overrides, and the file whose text --chat-template names."""
PICTURE = '{"type": "image_url", "image_url": {"url": "data:image/png;base64,<BASE64%s>"}}'
DESCRIBED = '{"type": "text", "text": "Describe the image."}'
TEXTS = """[
"Machine learning is a subset of artificial intelligence.",
"Python is a programming language.",
"Deep learning uses neural networks."
]"""
BODIES: dict[str, tuple[str, str, int]] = {
    "rerank of texts": (
        "/rerank",
        f'{{"model": "{LATE}", "query": "What is machine learning?", "documents": {TEXTS}}}',
        3,
    ),
    "score of texts": (
        "/score",
        f"""{{
"model": "{LATE}",
"text_1": "What is the capital of France?",
"text_2": ["The capital of France is Paris.", "Python is a programming language."]
}}""",
        2,
    ),
    "score of a picture": (
        "/score",
        f"""{{
"model": "{LATE}",
"data_1": "Retrieve the city of Beijing",
"data_2": [
{{
"content": [
{PICTURE % ""},
{DESCRIBED}
]
}}
]
}}""",
        1,
    ),
    "rerank of pictures": (
        "/rerank",
        f"""{{
"model": "{LATE}",
"query": "Retrieve the city of Beijing",
"documents": [
{{"content": [{PICTURE % "_1"}, {DESCRIBED}]}},
{{"content": [{PICTURE % "_2"}, {DESCRIBED}]}}
],
"top_n": 2
}}""",
        2,
    ),
    "token vectors of a text": (
        "/pooling",
        f'{{"model": "{LATE}", "input": "What is machine learning?", "task": "token_embed"}}',
        1,
    ),
    "token vectors of a picture": (
        "/pooling",
        f"""{{
"model": "{LATE}",
"messages": [
{{
"role": "user",
"content": [{PICTURE % ""}, {DESCRIBED}]
}}
]
}}""",
        1,
    ),
    "v1/score of pictures": (
        "/v1/score",
        f"""{{
"model": "{LATE}",
"queries": "slm markdown",
"documents": [{{"content": [{PICTURE % "_1"}]}}, {{"content": [{PICTURE % "_2"}]}}]
}}""",
        2,
    ),
}
"""What a command shows -> its path, its body, and how many results it has."""
PAGES = [png(painted(70, 40, 1)), png(painted(48, 64, 2))]
ENCODED = [base64.b64encode(page).decode() for page in PAGES]


@pytest.fixture(scope="module")
def late() -> Iterator[Live]:
    with load(artifact("colqwen3"), preparation="vllm") as model, live(model, names=(LATE,)) as server:
        yield server


@pytest.fixture(scope="module")
def pairs() -> Iterator[Live]:
    template = templates.named(f"{TEMPLATES}/qwen3_vl_reranker.jinja", "--chat-template")
    with (
        load(artifact("qwen3_vl_reranker"), preparation="vllm") as model,
        live(model, settings=Settings(chat_template=template), names=(PAIRS,)) as server,
    ):
        yield server


@pytest.mark.parametrize("line", LINES, ids=[f"line-{number}" for number in range(len(LINES))])
def test_a_command_line_is_read(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # from a folder that has no examples
    overrides, template = LINES[line]
    _, _, name, *flags = shlex.split(line)
    options, notes = parse([name, *flags])
    assert options.artifacts == [name]
    assert notes == [
        "--trust-remote-code has no effect here: an artifact fixes it, or poolrt does without"
    ] * ("--trust-remote-code" in line)
    assert (options.hf_overrides or None) == overrides
    text = settings_of(options).chat_template
    assert (text is None) == (template is None)
    if template is not None:
        file = Path(__file__).parents[2] / "recipes" / "templates" / template
        assert text == file.read_text(encoding="utf-8")


def asked(server: Live, path: str, body: str) -> Any:
    """The answer to a body as text, which must be a 200."""
    for place, encoded in (("<BASE64>", ENCODED[0]), ("<BASE64_1>", ENCODED[0]), ("<BASE64_2>", ENCODED[1])):
        body = body.replace(place, encoded)
    got = server.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert got.status_code == 200, got.text
    return got.json()


@pytest.mark.parametrize("name", BODIES)
def test_a_model_of_late_interaction_answers_a_command(late: Live, name: str):
    path, body, count = BODIES[name]
    answer = asked(late, path, body)
    results = answer["results" if path == "/rerank" else "data"]
    assert len(results) == count
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
    if path == "/rerank":
        scores = [result["relevance_score"] for result in results]
        assert scores == sorted(scores, reverse=True)
        assert sorted(result["index"] for result in results) == list(range(count))
        for result in results:
            assert (result["document"]["multi_modal"] is None) == ("BASE64" not in body)
    if path == "/pooling":
        rows = np.array(results[0]["data"])
        assert len(rows) == answer["usage"]["prompt_tokens"]
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=SAME)


@pytest.mark.parametrize("name", [name for name, (path, _, _) in BODIES.items() if path != "/pooling"])
def test_a_reranker_answers_the_same_commands(pairs: Live, name: str):
    path, body, count = BODIES[name]
    answer = asked(pairs, path, body.replace(LATE, PAIRS))
    scores = [
        result.get("score", result.get("relevance_score"))
        for result in answer.get("data", answer.get("results"))
    ]
    assert len(scores) == count
    assert all(0 < score < 1 for score in scores)


def score(server: Live, document: Any, **fields: Any) -> tuple[float, int]:
    answer = server.ask("/score", {"data_1": "What is machine learning?", "data_2": document, **fields})
    return answer["data"][0]["score"], answer["usage"]["prompt_tokens"]


def test_a_text_and_a_content_of_that_text_are_one(pairs: Live, late: Live):
    for server in (pairs, late):
        alone = score(server, "Python")
        content = score(server, {"content": [{"type": "text", "text": "Python"}]})
        assert content[0] == pytest.approx(alone[0], abs=SAME)
        assert content[1] == alone[1]


def test_an_instruction_may_be_written_in_two_places(pairs: Live):
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{ENCODED[0]}"}}
    document = {"content": [picture, {"type": "text", "text": "a page"}]}
    bare = score(pairs, document)
    first = score(pairs, document, instruction="find the page that was drawn with the widest brush of all")
    second = score(
        pairs,
        document,
        chat_template_kwargs={"instruction": "find the page that was drawn with the widest brush of all"},
    )
    assert first == second
    assert first[0] != bare[0]
    assert first[1] != bare[1]


def test_videos_are_classified_as_they_are_scored(pairs: Live):
    frames = ",".join(base64.b64encode(png(painted(64, 48, seed))).decode() for seed in range(4))
    video = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}
    counts = []
    for parts in ([{"type": "text", "text": "a"}], [video], [video, {"type": "text", "text": "a"}]):
        messages = [
            {"role": "query", "content": "What is machine learning?"},
            {"role": "document", "content": parts},
        ]
        answer = pairs.ask("/classify", {"model": PAIRS, "messages": messages})
        assert answer["data"][0]["num_classes"] == 1
        counts.append(answer["usage"]["prompt_tokens"])
        if len(parts) == 1:  # a message has a line feed between a video and a text, a score has none
            expected = score(pairs, {"content": parts})
            assert answer["data"][0]["probs"] == pytest.approx([expected[0]], abs=SAME)
            assert counts[-1] == expected[1]
    assert counts[0] < counts[1] < counts[2]
