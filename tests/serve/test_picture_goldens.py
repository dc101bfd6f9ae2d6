"""poolrt answers requests with pictures as the real vLLM answered them on the same tiny checkpoints: status,
keys, order, types, numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import load
from poolrt.serve.settings import Settings

from tests.goldens.record_http import answer, send
from tests.serve.cases import Case
from tests.serve.conftest import Live, live
from tests.serve.picture_cases import PAGE, RED, SERVERS, TEMPLATES, TEXT, artifact, image, side
from tests.serve.test_goldens import same

FOLDER = Path(__file__).parent.parent / "goldens" / "http_pictures"
WORDS = {
    **dict.fromkeys(
        ("bare-object", "no-address", "unknown-part"), "vLLM lists every form of a part and what each misses"
    ),
    **dict.fromkeys(
        ("system", "two-messages"), "a template refuses them; poolrt says that it was the template"
    ),
    "video": "vLLM fails inside numpy, and names no parameter",
    "truncated-prompt": "vLLM counts tokens before they are expanded",
}
"""Cases in which the words of an error and its parameter are not compared, and why."""
DECIDED = {
    "pooling-tokens": "poolrt computes both tasks of an embedder",
    "address-as-text": "many clients write the address where OpenAI has an object; vLLM refuses it",
    "input-image": "OpenAI's newer part; vLLM asks for its optional `detail`",
}
"""Cases in which poolrt means to differ, and why."""
NUMBERS = {
    "colmodernvbert": ("vLLM squashes each picture to one tile, and leaves out the tokens around it", ("",)),
    "colpali": (
        "vLLM's Gemma attends to the left alone on a processor; its pages have two first tokens",
        ("",),
    ),
    "jina_reranker_m0": (
        "vLLM swaps two pictures of one side",
        ("two-pictures", "score-two-pictures", "rerank-pages"),
    ),
    "nemotron_colembed": ("vLLM applies the last norm and attends to the left alone", ("",)),
    "paligemma2": ("vLLM's Gemma attends to the left alone on a processor", ("",)),
    "siglip": (
        "vLLM leaves out the padding that SigLIP's texts are trained with",
        ("text", "score", "rerank", "string", "cohere-inputs", "cohere-texts"),
    ),
}
"""Recording -> why numbers are not compared (vectors, scores, counts of tokens), and in which cases."""
SLOW = (
    "colmodernvbert", "nemotron_colembed", "ops_colqwen3", "llama_nemotron_vl_rerank", "jina_reranker_m0",
    "qwen2_5_vl_classify", "vlm2vec", "idefics3",
)  # fmt: skip
"""Recordings whose code others reach: each takes an export."""
ALL = [
    pytest.param(name, case, id=f"{name}-{case[0]}", marks=[pytest.mark.slow] if name in SLOW else [])
    for name, server in SERVERS.items()
    for case in server.cases
    if case[0] not in DECIDED
]


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Live]]:
    """One server per recording, opened when its first case comes."""
    opened: dict[str, Any] = {}

    def find(name: str) -> Live:
        if name not in opened:
            server = SERVERS[name]
            model = load(artifact(name), preparation="vllm", max_tokens=server.max_tokens)
            file = None if server.template is None else TEMPLATES / server.template
            template = None if file is None else file.read_text(encoding="utf-8")
            holder = live(model, settings=Settings(chat_template=template), names=("m",))
            opened[name] = (holder, holder.__enter__(), model)
        return opened[name][1]

    yield find
    for holder, _, model in opened.values():
        holder.__exit__(None, None, None)
        model.close()


@pytest.mark.parametrize(("name", "case"), ALL)
def test_an_answer_equals_vllms(servers: Callable[[str], Live], name: str, case: Case) -> None:
    recorded = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["answers"]
    golden = recorded[case[0]]
    _, method, path, body = case
    ours = answer(send(servers(name).client, method, path, body))
    if golden["status"] >= 500 or "default chat template is no longer allowed" in str(golden.get("json")):
        # vLLM fails, and may end. A model that reads pictures takes messages without a template too.
        assert ours["status"] < 500, ours
        return
    if case[0] == "uuid-again" and recorded["uuid-first"]["status"] >= 500:
        return
    assert ours["status"] == golden["status"], ours
    if case[0] in WORDS and "error" in golden["json"]:
        golden, ours = ({"json": {"code": got["json"]["error"]["code"]}} for got in (golden, ours))
    golden, ours = ({"json": json.loads(json.dumps(got["json"]), object_hook=part)} for got in (golden, ours))
    if case[0] == "no-activation":  # vectors of any length, compared as the others are
        for got in (golden, ours):
            vector = np.array(got["json"]["data"][0]["embedding"])
            got["json"]["data"][0]["embedding"] = (vector / np.linalg.norm(vector)).tolist()
    if case[0].startswith(NUMBERS.get(name, ("", ()))[1]):
        if case[0] == "rerank-top":
            return
        counts = path in ("/pooling", "/tokenize")
        golden, ours = ({"json": without_numbers(got["json"], counts=counts)} for got in (golden, ours))
    same(golden["json"], ours["json"], "")


def part(value: dict[str, Any]) -> dict[str, Any]:
    """An object of a response. A content part that is sent back has its keys in the order of their names, and
    an address is no vector in base64."""
    if value.keys() & {"image_url", "text"} and "type" in value:
        value = dict(sorted(value.items()))
    return value | {"url": hash(value["url"])} if isinstance(value.get("url"), str) else value


def without_numbers(value: Any, *, counts: bool) -> Any:
    """A response without its vectors and scores, its results in the order of their documents. Without
    `counts` its numbers of tokens are left out too."""
    if isinstance(value, float):
        return 0.5
    if isinstance(value, dict):
        return {
            key: 0 if key.endswith("_tokens") and not counts else without_numbers(inner, counts=counts)
            for key, inner in value.items()
        }
    if not isinstance(value, list):
        return value
    if value and isinstance(value[0], dict) and "relevance_score" in value[0]:
        value = sorted(value, key=lambda result: result["index"])
    return [without_numbers(inner, counts=counts) for inner in value]


@pytest.mark.parametrize("name", SERVERS)
def test_every_case_was_recorded(name: str) -> None:
    recorded = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["answers"]
    assert list(recorded) == [case[0] for case in SERVERS[name].cases], "make goldens"


@pytest.mark.slow
def test_vllm_swaps_two_pictures_of_a_document(servers: Callable[[str], Live]) -> None:
    golden = json.loads((FOLDER / "jina_reranker_m0.json").read_text(encoding="utf-8"))["answers"]
    [score] = golden["score-two-pictures"]["json"]["data"]
    swapped = {"data_1": TEXT, "data_2": side(image(RED), image(PAGE))}
    ours = answer(send(servers("jina_reranker_m0").client, "POST", "/score", swapped))
    assert ours["json"]["data"][0]["score"] == pytest.approx(score["score"], abs=1e-5)
