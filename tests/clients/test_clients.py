"""Other people's clients, unchanged, against a running server: every snippet of docs/clients.md is run as
it stands there, in a process of its own, with nothing replaced but the server's address. Numbers are
compared with the runtime's own.

A snippet is skipped when its package is missing. `make test` has openai, cohere and huggingface_hub (extra
`dev`); the rest is slow to install and to import: `make clients`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from poolrt.runtime import load
from poolrt.runtime.answers.params import PoolingParams
from poolrt.runtime.model import Model

from tests.end_to_end.commands import environment, served

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
EMBEDDER, RERANKER, CLASSIFIER = "all-MiniLM-L6-v2", "ms-marco-MiniLM-L6-v2", "sentiment"
WIRE = 1e-6  # the runtime's own float32 numbers, through JSON or base64
BATCH = 1e-5  # alone instead of together: sums in another order

QUERY, DOCUMENTS = "big cats", ["a lion is a cat", "rain tomorrow"]


@dataclass(frozen=True)
class Snippet:
    package: str
    """The first module it imports."""
    text: str
    line: int


def snippets() -> list[Snippet]:
    found = []
    page = PAGE.read_text()
    for match in re.finditer(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        text = match[1]
        imported = re.findall(r"^(?:from|import) ([\w.]+)", text, re.MULTILINE)
        found.append(Snippet(imported[-1], text, page[: match.start()].count("\n") + 1))
    return found


LIGHT = ("openai", "cohere", "huggingface_hub")


def parameter(snippet: Snippet) -> Any:
    marks = [] if snippet.package.startswith(LIGHT) else [pytest.mark.slow]
    return pytest.param(snippet, id=f"{snippet.package}-line-{snippet.line}", marks=marks)


@pytest.fixture(scope="module")
def artifacts_by_name(artifacts: Callable[[str], Path]) -> dict[str, Path]:
    return {
        EMBEDDER: artifacts("minilm_like"),
        RERANKER: artifacts("bert_cross_encoder"),
        CLASSIFIER: artifacts("bert_classifier"),
    }


@pytest.fixture(scope="module")
def address(artifacts_by_name: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    names = [f"{name}={folder}" for name, folder in artifacts_by_name.items()]
    flags = ["--served-model-name", *names, "--batch-folder", str(tmp_path_factory.mktemp("batches"))]
    with served(*artifacts_by_name.values(), flags=flags) as url:
        yield url


@pytest.fixture(scope="module")
def models(artifacts_by_name: dict[str, Path]) -> Iterator[dict[str, Model]]:
    opened = {name: load(folder) for name, folder in artifacts_by_name.items()}
    yield opened
    for model in opened.values():
        model.close()


def run(text: str, address: str, *, told: str) -> Any:
    """The value of the expression `told` after the snippet, run as a user would. Standard
    error is shown when it fails."""
    program = text.replace("http://localhost:8000", address)
    epilogue = (
        f"\nimport json\nprint(json.dumps({told}, default=lambda value: getattr(value, 'tolist', "
        "lambda: str(value))()))\n"
    )
    # huggingface_hub takes "offline" to mean this server too.
    variables = {name: value for name, value in environment().items() if name != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-c", program + epilogue]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def missing(package: str) -> bool:
    """Looks for the top-level module; those below it are of packages with names of their own."""
    top = package.partition(".")[0]
    if importlib.util.find_spec(top) is None:
        return True
    if top != "llama_index":  # a namespace that several packages share
        return False
    return not any(
        (Path(folder) / Path(*package.split(".")[1:])).exists()
        for folder in importlib.import_module(top).__path__
    )


@pytest.mark.parametrize("snippet", [parameter(snippet) for snippet in snippets()])
def test_every_snippet_of_the_page_works(snippet: Snippet, address: str, models: dict[str, Model]) -> None:
    if missing(snippet.package):
        pytest.skip(f"{snippet.package} is not installed: make clients")
    checked = False
    if re.search(r"^vectors = ", snippet.text, re.MULTILINE):
        texts = ["a cat " * 500] if "* 500" in snippet.text else ["a cat", "a dog"]
        expected = np.asarray(models[EMBEDDER].embed(texts, truncate_prompt_tokens=-1))
        np.testing.assert_allclose(run(snippet.text, address, told="vectors"), expected, atol=BATCH)
        checked = True
    if re.search(r"^scores = ", snippet.text, re.MULTILINE):
        documents = ["a lion is a cat", "rain"] if '"rain"]' in snippet.text else DOCUMENTS
        ranking = models[RERANKER].rerank(QUERY, documents)
        told = [pair(one, documents) for one in run(snippet.text, address, told="scores")]
        assert [index for index, _ in told] == [one.index for one in ranking]
        np.testing.assert_allclose([score for _, score in told], [one.score for one in ranking], atol=BATCH)
        checked = True
    if "similar = " in snippet.text:
        cat, kitten, spoon = np.asarray(models[EMBEDDER].embed(["a cat", "a kitten", "a spoon"]))
        np.testing.assert_allclose(
            run(snippet.text, address, told="similar"), [cat @ kitten, cat @ spoon], atol=BATCH
        )
        checked = True
    if "labels = " in snippet.text:
        # /predict is answered by the first model with classes, here the cross-encoder with its single one.
        output = models[RERANKER].classify(["what a lovely day"])[0].outputs
        ((_, score),) = run(snippet.text, address, told="labels")
        np.testing.assert_allclose(score, output.probs[0], atol=BATCH)
        checked = True
    assert checked, "a snippet that shows nothing"


def pair(one: Any, documents: list[str]) -> tuple[int, float]:
    """(index, score) however a client spells it."""
    if isinstance(one, dict):
        return one["index"], one["relevance_score"]
    first, score = one
    return (documents.index(first) if isinstance(first, str) else first), score


def test_page_tells_the_versions_that_were_tried() -> None:
    rows = re.findall(r"`([a-z_-]+)` \| ([\d., ]+) \|", PAGE.read_text())
    assert len(rows) == len({package for package, _ in rows}) == 13
    for package, versions in rows:
        assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in versions.split(", ")), package


# OpenAI's client beyond the page

OPENAI = """
import openai
client = openai.OpenAI(base_url="http://localhost:8000/v1", api_key="none", max_retries=0)
"""


def test_openai_lists_the_models(address: str) -> None:
    pytest.importorskip("openai")
    assert run(OPENAI, address, told="[model.id for model in client.models.list()]") == [
        EMBEDDER,
        RERANKER,
        CLASSIFIER,
    ]


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_openai_reads_both_encodings(address: str, models: dict[str, Model], encoding: str) -> None:
    pytest.importorskip("openai")
    asked = (
        f'client.embeddings.create(model="{EMBEDDER}", input="a cat", '
        f'encoding_format="{encoding}").data[0].embedding'
    )
    value = run(OPENAI, address, told=asked)
    if encoding == "base64":  # asked for by name, the client hands it over as it came
        import base64

        value = np.frombuffer(base64.b64decode(value), dtype="<f4")
    np.testing.assert_allclose(value, models[EMBEDDER].embed("a cat")[0].outputs.embedding, atol=WIRE)


def test_openai_raises_its_own_errors(address: str) -> None:
    pytest.importorskip("openai")
    text = OPENAI + (
        "told = []\n"
        "for asked in ({'model': 'nobody', 'input': "
        "'a'}, {'model': '" + EMBEDDER + "', 'input': 'a ' * 100}):\n"
        "    try:\n        client.embeddings.create(**asked)\n"
        "    except openai.APIStatusError as error:\n"
        "        told.append((type(error).__name__, error.status_code, error.param, error.body['message']))\n"
    )
    missing_model, too_long = run(text, address, told="told")
    assert missing_model[0] == "NotFoundError"
    assert "nobody" in missing_model[3]
    assert too_long[:3] == ["BadRequestError", 400, "input_tokens"]
    assert "reduce the length" in too_long[3]


# "tiktoken is great!" in OpenAI's cl100k_base (OpenAI's cookbook, "How to count tokens with tiktoken").
CL100K = [[83, 1609, 5963, 374, 2294, 0]]


def test_ids_of_another_tokenizer_are_refused_with_the_flag_to_set(address: str) -> None:
    pytest.importorskip("openai")
    text = OPENAI + (
        f"try:\n    client.embeddings.create(model='{EMBEDDER}', input={CL100K})\n    told = 'vectors'\n"
        "except openai.BadRequestError as error:\n    told = error.body['message']\n"
    )
    assert "check_embedding_ctx_length=False" in run(text, address, told="told")


def test_ids_of_the_models_own_tokenizer_are_taken(address: str, models: dict[str, Model]) -> None:
    pytest.importorskip("openai")
    ids = models[EMBEDDER].tokenize("a cat")
    asked = f'client.embeddings.create(model="{EMBEDDER}", input={[ids]}).data[0].embedding'
    np.testing.assert_allclose(
        run(OPENAI, address, told=asked), models[EMBEDDER].embed("a cat")[0].outputs.embedding, atol=WIRE
    )


# tiktoken downloads its vocabularies, which a test must not. So the client gets, under the name it asks for,
# a vocabulary of the same kind (byte pairs, here the 256 bytes, with ids moved to where cl100k has words);
# everything else is LangChain's and tiktoken's own code.
LANGCHAIN_DEFAULT = f"""
import tiktoken, tiktoken.registry
ranks = {{bytes([byte]): 1000 + byte for byte in range(256)}}
words = r"\\S+|\\s+"
made = tiktoken.Encoding(name="cl100k_base", pat_str=words, mergeable_ranks=ranks, special_tokens={{}})
tiktoken.registry.ENCODINGS["cl100k_base"] = made
from langchain_openai import OpenAIEmbeddings
embeddings = OpenAIEmbeddings(base_url="http://localhost:8000/v1", api_key="none", model="{EMBEDDER}", max_retries=0)
try:
    embeddings.embed_documents(["the capital of france is paris", "a dog"])
    told = ["vectors"]
except Exception as error:
    told = [type(error).__name__, str(error)]
"""  # noqa: E501


@pytest.mark.slow
def test_langchains_default_is_refused_with_the_flag_to_set(address: str) -> None:
    if missing("langchain_openai"):
        pytest.skip("langchain_openai is not installed: make clients")
    kind, message = run(LANGCHAIN_DEFAULT, address, told="told")
    assert kind == "BadRequestError"
    assert "check_embedding_ctx_length=False" in message


# Cohere's and Hugging Face's clients beyond the page


def test_cohere_v1_answers_by_type_when_types_are_named(address: str, models: dict[str, Model]) -> None:
    pytest.importorskip("cohere")
    text = (
        "import cohere\nclient = cohere.Client(base_url='http://localhost:8000', api_key='none')\n"
        f"answer = client.embed(model='{EMBEDDER}', texts=['a cat'], input_type='search_query', "
        "embedding_types=['float', 'ubinary'])\n"
    )
    told = run(
        text,
        address,
        told="[answer.response_type, answer.embeddings.float_, answer.embeddings.ubinary, "
        "answer.meta.api_version.version]",
    )
    vector = models[EMBEDDER].embed("a cat")[0].outputs.embedding
    assert [told[0], told[3]] == ["embeddings_by_type", "1"]
    np.testing.assert_allclose(told[1], [vector], atol=WIRE)
    assert told[2] == [np.packbits(vector >= 0).tolist()]


def test_cohere_v1_still_refuses_an_input_type_that_is_not_coheres(address: str) -> None:
    pytest.importorskip("cohere")
    text = (
        "import cohere\nclient = cohere.Client(base_url='http://localhost:8000', api_key='none')\n"
        f"try:\n    told = client.embed(model='{EMBEDDER}', texts=['a cat'], input_type='poem')\n"
        "except cohere.BadRequestError as error:\n    told = error.body['message']\n"
    )
    assert "Unsupported input_type 'poem'" in run(text, address, told="told")


@pytest.mark.parametrize("client", ["Client", "ClientV2"])
@pytest.mark.parametrize("offline", [True, False])
def test_cohere_tokenises_here_where_it_finds_no_tokenizer(
    address: str, models: dict[str, Model], client: str, offline: bool
) -> None:
    cohere = pytest.importorskip("cohere")
    expected = models[EMBEDDER].tokenize("a cat", add_special_tokens=False)
    with httpx.Client() as connections:
        opened = getattr(cohere, client)(base_url=address, api_key="none", httpx_client=connections)
        ids = opened.tokenize(text="a cat", model=EMBEDDER, offline=offline)
        assert ids.tokens == expected
        assert len(ids.token_strings) == len(expected)
        around = models[EMBEDDER].tokenize("a cat")
        assert opened.detokenize(tokens=around, model=EMBEDDER, offline=offline).text == "a cat"
        with pytest.raises(cohere.NotFoundError):
            opened.tokenize(text="a", model="nobody", offline=offline)


HUB = """
from huggingface_hub import InferenceClient
client = InferenceClient("http://localhost:8000/predict")
"""


def test_hub_client_chooses_labels_and_function(
    artifacts_by_name: dict[str, Path], models: dict[str, Model]
) -> None:
    pytest.importorskip("huggingface_hub")
    output = (
        models[CLASSIFIER]
        .classify("what a lovely day", pooling_params=PoolingParams(use_activation=False))[0]
        .outputs
    )
    logits = np.sort(output.probs)[::-1]
    softmax = np.exp(logits) / np.exp(logits).sum()
    expected = {
        "top_k=2": softmax[:2],
        "function_to_apply='none'": logits,
        "function_to_apply='sigmoid'": 1 / (1 + np.exp(-logits)),
    }
    with served(artifacts_by_name[CLASSIFIER]) as address:
        for options, scores in expected.items():
            asked = (
                "[(item.label, item.score) for item in client.text_classification('what a "
                f"lovely day', {options})]"
            )
            told = run(HUB, address, told=asked)
            assert told[0][0] == output.label
            np.testing.assert_allclose([score for _, score in told], scores, atol=BATCH)


def test_openai_works_without_v1_in_its_address(address: str, models: dict[str, Model]) -> None:
    pytest.importorskip("openai")
    text = OPENAI.replace("/v1", "")
    asked = (
        f'client.embeddings.create(model="{EMBEDDER}", input="a cat", dimensions=64, '
        'encoding_format="float").data[0].embedding'
    )
    np.testing.assert_allclose(
        run(text, address, told=asked), models[EMBEDDER].embed("a cat")[0].outputs.embedding, atol=WIRE
    )
    assert run(text, address, told="[model.id for model in client.models.list()]") == [
        EMBEDDER,
        RERANKER,
        CLASSIFIER,
    ]


def test_cohere_v2_embeds_with_its_own_input_type(address: str, models: dict[str, Model]) -> None:
    pytest.importorskip("cohere")
    text = (
        "import cohere\nclient = cohere.ClientV2(base_url='http://localhost:8000', api_key='none')\n"
        f"answer = client.embed(model='{EMBEDDER}', texts=['a cat'], input_type='search_query', "
        "embedding_types=['float'])\n"
    )
    told = run(text, address, told="answer.embeddings.float_")
    np.testing.assert_allclose(told, [models[EMBEDDER].embed("a cat")[0].outputs.embedding], atol=WIRE)


def test_cohere_v1_ranks_text_objects_without_sending_them_back(
    address: str, models: dict[str, Model]
) -> None:
    pytest.importorskip("cohere")
    text = (
        "import cohere\nclient = cohere.Client(base_url='http://localhost:8000', api_key='none')\n"
        f"asked = dict(model='{RERANKER}', query={QUERY!r}, documents=[{{'text': text}} for text in "
        f"{DOCUMENTS!r}])\n"
        "plain, shown = client.rerank(**asked, return_documents=False), client.rerank(**asked, "
        "return_documents=True)\n"
    )
    one = "(one.index, one.relevance_score, one.document and one.document.text)"
    told = run(text, address, told=f"[[{one} for one in answer.results] for answer in (plain, shown)]")
    ranking = models[RERANKER].rerank(QUERY, DOCUMENTS)
    for results, documents in zip(told, ([None] * 2, [one.document for one in ranking]), strict=True):
        assert [(index, text) for index, _, text in results] == [
            (one.index, text) for one, text in zip(ranking, documents, strict=True)
        ]
        np.testing.assert_allclose(
            [score for _, score, _ in results], [one.score for one in ranking], atol=BATCH
        )
