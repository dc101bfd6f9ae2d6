"""IO processors offline: those that come with poolrt, and foreign ones as vLLM's packages write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import LLM, PoolingParams
from poolrt.runtime.errors import InputError, UnsupportedTask
from poolrt.runtime.loader import load
from poolrt.runtime.model import Model
from poolrt.runtime.plugins import BUILT_IN

TEXTS = ["what is the capital of france", "paris"]

# As a package for vLLM writes it, but for the base class: state per request, parameters of its own class,
# tokens taken off in place.
FOREIGN = '''
from types import SimpleNamespace


class Base:
    def __init__(self, vllm_config, renderer):
        self.vllm_config = vllm_config

    def parse_data(self, data):
        raise NotImplementedError

    def merge_pooling_params(self, params=None):
        return params or SimpleNamespace(task="plugin")

    async def pre_process_async(self, prompt, request_id=None, **kwargs):
        return self.pre_process(prompt, request_id, **kwargs)

    async def post_process_async(self, model_output, request_id=None, **kwargs):
        return self.post_process([one async for _, one in model_output], request_id=request_id, **kwargs)


class Means(Base):
    """The mean of each token vector, and what it was told."""

    def __init__(self, vllm_config, renderer):
        super().__init__(vllm_config, renderer)
        self.tokenizer = renderer.get_tokenizer()
        self.seen = {}

    def parse_request(self, data):
        return {"texts": data["texts"], "shout": bool(int(data.get("shout", 0)))}

    def pre_process(self, prompt, request_id=None, **kwargs):
        self.seen[request_id] = prompt
        texts = [text.upper() if prompt["shout"] else text for text in prompt["texts"]]
        return [{"prompt_token_ids": self.tokenizer.encode(text)} for text in texts]

    def merge_pooling_params(self, params=None):
        params = params or SimpleNamespace()
        params.skip_reading_prefix_cache = True
        params.task = "token_embed"
        return params

    def post_process(self, model_output, request_id=None, **kwargs):
        asked = self.seen.pop(request_id)
        answers = []
        for one in model_output:
            one.prompt_token_ids = one.prompt_token_ids[1:]
            answers.append({"id": one.request_id, "mean": float(one.outputs.data.mean()), "tokens": len(one.prompt_token_ids)})
        return {"asked": asked, "answers": answers, "width": self.vllm_config.model_config.embedding_size}


class Old:
    def __init__(self, vllm_config):
        self.limit = vllm_config.model_config.max_model_len

    def parse_request(self, data):
        return data

    def pre_process(self, prompt, request_id=None, **kwargs):
        return prompt

    def validate_or_generate_params(self, params=None):
        return None

    def post_process(self, model_output, request_id=None, **kwargs):
        return [self.limit, len(model_output), model_output[0].outputs.data.shape]


class Broken(Means):
    def __init__(self, vllm_config, renderer):
        raise RuntimeError("it wants\\n another model")


def register_means():
    return "foreign_plugin.Means"


def register_nothing():
    return None


def register_missing():
    return "foreign_plugin_that_is_missing.Means"
'''  # noqa: E501
POINTS = """
[vllm.io_processor_plugins]
means = foreign_plugin:register_means
missing = foreign_plugin:register_missing
gone = foreign_plugin_of_old:register
[poolrt.io_processor_plugins]
old = foreign_plugin:Old
broken = foreign_plugin:Broken
nothing = foreign_plugin:register_nothing
"""


def installed(folder: Path) -> None:
    """A package with plugins, as pip leaves it."""
    (folder / "foreign_plugin.py").write_text(FOREIGN)
    facts = folder / "foreign_plugin-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-plugin\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(POINTS)


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def opened(artifacts: Callable[[str], Path]) -> Iterator[Callable[..., Model]]:
    made: list[Model] = []

    def find(name: str, plugin: str | None) -> Model:
        made.append(load(artifacts(name), threads=1, check="quick", io_processor_plugin=plugin))
        return made[-1]

    yield find
    for model in made:
        model.close()


def processed(model: Model, data: Any, **more: Any) -> Any:
    (one,) = model.encode({"data": data}, pooling_task="plugin", **more)
    assert (one.prompt_token_ids, one.finished, one.request_id) == ([], True, "")
    return one.outputs


def test_bge_m3_answers_dense_and_sparse_from_one_pass(opened):
    model = opened("bge_m3", "bge_m3_sparse_plugin")
    before = model.statistics().batches
    response = processed(model, {"input": TEXTS, "return_tokens": True})
    # "paris" is three tokens, the other eight: two shapes, each computed once for both outputs.
    assert model.statistics().batches - before <= 2
    np.testing.assert_allclose(
        [one.dense_embedding for one in response.data], np.asarray(model.embed(TEXTS)), rtol=1e-6
    )
    for one, weights, text in zip(response.data, model.token_classify(TEXTS).arrays, TEXTS, strict=True):
        ids = model.tokenize(text)
        assert [entry.token_id for entry in one.sparse_embedding] == ids[1:-1]
        np.testing.assert_allclose([entry.weight for entry in one.sparse_embedding], weights, rtol=1e-6)
        assert "".join(entry.token for entry in one.sparse_embedding) == f" {text}"
        assert one.object == "dense&sparse"
    assert response.usage.prompt_tokens == response.usage.total_tokens == model.embed(TEXTS).prompt_tokens
    assert (response.usage.completion_tokens, response.usage.prompt_tokens_details) == (0, None)


def test_bge_m3_answers_what_is_asked_of_it(opened):
    model = opened("bge_m3", "bge_m3_sparse_plugin")
    (dense,) = processed(model, {"input": TEXTS[0], "embed_task": "dense", "use_activation": False}).data
    assert dense.sparse_embedding is None
    np.testing.assert_allclose(
        dense.dense_embedding,
        np.asarray(model.embed(TEXTS[0], pooling_params=PoolingParams(use_activation=False)))[0],
        rtol=1e-6,
    )
    (sparse,) = processed(model, {"input": "mars mars paris", "embed_task": "sparse"}).data
    assert sparse.dense_embedding is None
    assert [entry.token for entry in sparse.sparse_embedding] == [None, None]
    weights = model.token_classify("mars mars paris")[0].outputs.data
    assert sparse.sparse_embedding[0].weight == pytest.approx(max(weights[:2]))


@pytest.mark.parametrize(
    ("ids", "kept"),
    [([10, 11], [10, 11]), ([0, 10, 11, 2], [10, 11]), ([0, 10], [10]), ([10, 2], [10]), ([0, 2], [])],
)
def test_weights_stand_beside_their_tokens_whatever_ends_ids_have(opened, ids, kept):
    (one,) = processed(opened("bge_m3", "bge_m3_sparse_plugin"), {"input": ids}).data
    assert [entry.token_id for entry in one.sparse_embedding] == kept


def test_the_combined_task_is_the_embedding_and_the_weights(opened):
    model = opened("bge_m3", None)
    joined = model.encode(TEXTS, pooling_task="embed&token_classify")
    for one, embedding, weights in zip(joined, model.embed(TEXTS), model.token_classify(TEXTS), strict=True):
        np.testing.assert_allclose(
            one.outputs.data, np.concatenate([embedding.outputs.data, weights.outputs.data]), rtol=1e-6
        )
    with pytest.raises(InputError, match="Unsupported task: 'embed&token_classify'"):
        opened("minilm_like", None).encode(TEXTS, pooling_task="embed&token_classify")


@pytest.mark.usefixtures("foreign")
def test_a_package_written_for_vllm_runs_as_it_is(opened):
    model = opened("minilm_like", "means")
    answer = processed(model, {"texts": TEXTS})
    vectors = model.token_embed(TEXTS)
    assert [one["mean"] for one in answer["answers"]] == pytest.approx(
        [float(array.mean()) for array in vectors.arrays]
    )
    assert [one["tokens"] for one in answer["answers"]] == [len(one.prompt_token_ids) - 1 for one in vectors]
    assert [one["id"] for one in answer["answers"]] == ["0", "1"]
    assert (answer["asked"], answer["width"]) == ({"texts": TEXTS, "shout": False}, 64)
    raw = processed(model, {"texts": TEXTS}, pooling_params=PoolingParams(use_activation=False))
    assert raw["answers"][0]["mean"] != answer["answers"][0]["mean"]


@pytest.mark.usefixtures("foreign")
def test_older_spellings_of_the_interface_are_understood(opened):
    assert processed(opened("minilm_like", "old"), TEXTS[0]) == [64, 1, (64,)]


@pytest.mark.usefixtures("foreign")
def test_a_script_with_a_plugin_ports_by_its_constructor(artifacts):
    llm = LLM(model=str(artifacts("minilm_like")), runner="pooling", io_processor_plugin="means")
    (one,) = llm.encode({"data": {"texts": TEXTS}}, pooling_task="plugin", use_tqdm=False)
    answer: Any = one.outputs
    assert len(answer["answers"]) == 2
    llm.model.close()


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, "data: not what the plugin 'means' takes: 'texts' is missing"),
        (["a"], "takes: list indices must be"),
        ({"texts": ["a"], "shout": "loud"}, "takes: invalid literal"),
        ({"texts": []}, "You must pass at least one prompt"),
        ({"texts": ["a " * 500]}, "maximum context length is 64"),
    ],
    ids=["key", "type", "value", "nothing", "long"],
)
def test_data_that_a_foreign_plugin_refuses_is_told(opened, data, told):
    with pytest.raises(InputError, match=told) as refused:
        processed(opened("minilm_like", "means"), data)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize(
    ("artifact", "name", "told"),
    [
        (
            "minilm_like",
            "nobody",
            "there is no such plugin, those installed are .*bge_m3_sparse_plugin.*means",
        ),
        (
            "minilm_like",
            "missing",
            (
                r"cannot be imported \(ModuleNotFoundError: No module named "
                r"'foreign_plugin_that_is_missing'\); install"
            ),
        ),
        ("minilm_like", "gone", r"foreign_plugin_of_old:register cannot be imported"),
        ("minilm_like", "broken", r"refused to start \(RuntimeError: it wants another model\)"),
        ("minilm_like", "nothing", "answered NoneType, expected a class"),
        ("minilm_like", "bge_m3_sparse_plugin", "needs a model with the tasks embed and token_classify"),
        (
            "minilm_like",
            "colbert_query_plugin",
            (r"lacks \[QueryMarker\], \[DocumentMarker\]; leave " r"the plugin out"),
        ),
    ],
)
def test_a_plugin_that_cannot_be_is_told_when_it_is_asked_for(opened, artifact, name, told):
    with pytest.raises(InputError, match=told) as refused:
        opened(artifact, name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["bge_m3", "minilm_like"])
def test_processors_are_given_a_tokenizer_like_hugging_faces(opened, checkpoints, name):
    import transformers

    ours = LLM.get_tokenizer(SimpleNamespace(model=opened(name, None)))  # pyright: ignore[reportArgumentType]
    theirs = transformers.AutoTokenizer.from_pretrained(checkpoints(name))
    for special in (True, False):
        assert ours.encode(TEXTS[0], add_special_tokens=special) == theirs.encode(
            TEXTS[0], add_special_tokens=special
        )
    ids = ours.encode(TEXTS[0])
    assert ours(TEXTS[0])["input_ids"] == theirs(TEXTS[0])["input_ids"]
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert ours.convert_ids_to_tokens(ids[1]) == theirs.convert_ids_to_tokens(ids[1])
    tokens = [*theirs.convert_ids_to_tokens(ids), "no such token"]
    assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert ours.convert_tokens_to_ids(tokens[1]) == theirs.convert_tokens_to_ids(tokens[1])
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids[1]) == theirs.decode(ids[1])
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.backend_tokenizer.to_str()
    for kind in ("cls", "sep", "mask", "pad", "unk", "bos", "eos"):
        assert getattr(ours, f"{kind}_token_id") == getattr(theirs, f"{kind}_token_id")


def test_without_a_plugin_its_task_is_refused(opened):
    model = opened("minilm_like", None)
    with pytest.raises(UnsupportedTask, match="No IOProcessor plugin installed"):
        model.encode({"data": {}}, pooling_task="plugin")
    with pytest.raises(InputError, match="needs encode"):
        model.encode({"data": {}}, pooling_task="embed")


@pytest.mark.parametrize("prompts", ["text", ["text"], {"prompt": "text"}, {"data": None}])
def test_the_plugin_task_takes_data(opened, prompts):
    with pytest.raises(InputError, match=r"takes one object \{'data': ...\}"):
        opened("bge_m3", "bge_m3_sparse_plugin").encode(prompts, pooling_task="plugin")


def test_a_checkpoint_may_name_its_plugin(artifacts, tmp_path):
    from poolrt.exporter import pipeline

    (checkpoint := tmp_path / "checkpoint").mkdir()
    from tests.checkpoints import bge_m3

    bge_m3(checkpoint)
    for plugin in ("bge_m3_sparse_plugin", "nobody"):
        pipeline.export(
            str(checkpoint), name=plugin, out=str(tmp_path), hf_overrides={"io_processor_plugin": plugin}
        )
    with load(tmp_path / "bge_m3_sparse_plugin", threads=1) as model:
        assert model.plugin is not None
        assert len(processed(model, {"input": TEXTS}).data) == 2
    # One that is not installed stops only what needs it.
    with load(tmp_path / "nobody", threads=1) as model:
        assert len(model.embed(TEXTS)) == 2
        with pytest.raises(InputError, match="there is no such plugin"):
            processed(model, {"input": TEXTS})


def test_the_page_shows_a_plugin_that_works(artifacts, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "io-processors.md").read_text(encoding="utf-8")
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Passages" in block
    )
    ((name, value),) = re.findall(r'^(\w+) = "([\w:]+)"$', page, re.MULTILINE)
    (tmp_path / "my_package.py").write_text(code)
    (facts := tmp_path / "my_package-1.0.dist-info").mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[poolrt.io_processor_plugins]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with load(artifacts("minilm_like"), threads=1, io_processor_plugin=name) as model:
        answer = processed(model, {"title": "cities", "passages": TEXTS})
        np.testing.assert_allclose(
            answer["vectors"], np.asarray(model.embed([f"cities: {text}" for text in TEXTS])), rtol=1e-5
        )
        with pytest.raises(InputError, match="'passages' takes: passages: expected a list of texts"):
            processed(model, {"title": "cities"})


def test_the_plugins_of_vllm_have_its_names():
    assert sorted(BUILT_IN) == ["bge_m3_sparse_plugin", "colbert_query_plugin"]
