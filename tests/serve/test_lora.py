"""LoRA adapters over HTTP: named at start or loaded while serving, each answered by a model of its own."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import load
from poolrt.runtime.artifact.checkpoints import exported
from poolrt.runtime.errors import ArtifactError, CheckpointError, EngineError, InputError
from poolrt.serve.cli import parse, settings_of
from poolrt.serve.errors import ApiError
from poolrt.serve.models import adapters
from poolrt.serve.models.adapter_loading import Loader
from poolrt.serve.models.adapters import AdapterExporter, NamedAdapter, named_adapter
from poolrt.serve.models.registry import Registry, Served
from poolrt.serve.process.startup import models_of
from poolrt.serve.settings import Settings

from tests import adapters as peft
from tests.serve.conftest import Live, serving

ALLOW = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
TEXTS = ["the red planet", "a", "which city is the capital of france ?"]
SOON_S = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """A checkpoint, adapters of it, and a cache that all tests of the module share."""

    base: str
    cache: str
    adapters: dict[str, str]

    def arguments(self, *more: str, source: str | None = None) -> list[str]:
        return [
            source or self.base,
            "--cache",
            self.cache,
            "--served-model-name",
            "base",
            "--threads",
            "1",
            "--enable-lora",
            *more,
        ]


@pytest.fixture(scope="module")
def place(checkpoints: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("lora")
    base = checkpoints("minilm_like")
    made = {
        name: str(peft.adapted(base, folder / name, seed=seed)) for seed, name in enumerate(("sports", "law"))
    }
    return Place(str(base), str(folder / "cache"), made)


def read(arguments: list[str]) -> tuple[Any, Settings]:
    asked, _ = parse(arguments)
    return asked, settings_of(asked)


@pytest.fixture(scope="module")
def served(place: Place) -> Iterator[Live]:
    """The checkpoint, one adapter from its folder, and the routes that load more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ALLOW, "True")
        asked, settings = read(place.arguments("--lora-modules", f"sports={place.adapters['sports']}"))
    models = models_of(asked, settings)
    with serving(models.registry, settings, adapters=models.adapters, owns_models=True) as live:
        assert live.here.registry.ready.wait(SOON_S)
        yield live


def vectors(live: Live, model: str | None) -> np.ndarray:
    answered = live.ask("/v1/embeddings", {"input": TEXTS, **({} if model is None else {"model": model})})
    assert answered["model"] == "base", "the first served name, also for an adapter"
    return np.array([one["embedding"] for one in answered["data"]])


def ids(live: Live) -> list[str]:
    return [one["id"] for one in live.client.get("/v1/models").json()["data"]]


# --- named at start
# ------------------------------------------------------------------------------------------------------------


def test_an_adapter_is_listed_behind_its_base(served: Live, place: Place) -> None:
    base, adapter = served.client.get("/v1/models").json()["data"]
    assert (base["id"], base["parent"], base["max_model_len"]) == ("base", None, 64)
    assert (adapter["id"], adapter["root"], adapter["parent"]) == ("sports", place.adapters["sports"], "base")
    assert adapter["max_model_len"] is None
    assert adapter.keys() == base.keys()


def test_its_name_chooses_it(served: Live, place: Place) -> None:
    plain, adapted = vectors(served, None), vectors(served, "sports")
    np.testing.assert_array_equal(plain, vectors(served, "base"))
    assert np.abs(plain - adapted).max() > 0.01
    (folder,) = (
        path for path in Path(place.cache).iterdir() if "sports" in (path / "manifest.json").read_text()
    )
    with load(folder, threads=1) as model:
        # The same graph, another batch
        np.testing.assert_allclose(adapted, np.asarray(model.embed(TEXTS)), rtol=0, atol=1e-6)


def test_a_request_without_a_model_never_gets_an_adapter(
    served: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = served.here.registry
    monkeypatch.setattr(registry.find("base"), "abilities", frozenset())  # only adapters could do it
    assert registry.able(None, "embed", "any").name == "base"


def test_every_route_knows_the_adapter(served: Live) -> None:
    assert served.ask("/score", {"model": "sports", "text_1": "a", "text_2": "b"})["model"] == "base"
    assert served.ask("/pooling", {"model": "sports", "input": "a", "task": "token_embed"})["model"] == "base"
    assert served.ask("/rerank", {"model": "sports", "query": "a", "documents": ["b"]})["model"] == "base"
    assert served.ask("/tokenize", {"model": "sports", "prompt": "a"})["count"] == 3
    assert 'model_name="sports"' in served.client.get("/metrics").text


def test_sagemaker_names_an_adapter_in_a_header(served: Live) -> None:
    named = {"headers": {"X-Amzn-SageMaker-Adapter-Identifier": "sports"}}
    expected = served.ask("/v1/embeddings", {"model": "sports", "input": "a"})["data"]
    assert served.ask("/invocations", {"model": "base", "input": "a"}, **named)["data"] == expected
    unknown = {"headers": {"X-Amzn-SageMaker-Adapter-Identifier": "nobody"}}
    assert served.refused("/invocations", {"input": "a"}, 404, **unknown)["type"] == "NotFoundError"


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("a=/b=c", NamedAdapter(name="a", path="/b=c")),
        ('{"name": "a", "path": "b", "base_model_name": "c"}',
        NamedAdapter(name="a", path="b", base_model_name="c")),
        ('{"name": "a", "path": "b", "is_3d_lora_weight": false}', NamedAdapter(name="a", path="b")),
    ],
    ids=["plain", "json", "expert layout"],
)  # fmt: skip
def test_both_forms_of_a_module_are_read(text: str, module: NamedAdapter) -> None:
    assert named_adapter(text) == module
    assert parse(["m", "--lora-modules", text, "b=c", "--enable-lora"])[0].lora_modules == [text, "b=c"]


@pytest.mark.parametrize(
    "text", ["a", '{"name": "a"}', '{"name": "a", "path": 1}', '{"name": "a", "path": "b", "rank": 3}', "{"]
)
def test_a_module_that_says_something_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--lora-modules: found .*, expected NAME=PATH or"):
        named_adapter(text)


def test_an_exported_adapter_is_served_beside_an_artifact(
    served: Live, place: Place, artifacts: Callable[[str], Path]
) -> None:
    """No exporter is needed: the artifact says what it adapts."""
    (folder,) = (
        path for path in Path(place.cache).iterdir() if "sports" in (path / "manifest.json").read_text()
    )
    asked, settings = read(
        [str(artifacts("minilm_like")), "--enable-lora", "--lora-modules", f"x={folder}", "--threads", "1"]
    )
    base, adapter = models_of(asked, settings).registry
    assert (adapter.name, adapter.parent, adapter.root) == ("x", base, str(folder))


@pytest.mark.parametrize(
    ("more", "error", "told"),
    [
        (["--no-enable-lora", "--lora-modules", "a=b"], InputError, "--lora-modules needs --enable-lora"),
        (["--max-loras", "1", "--lora-modules", "a=b", "c=d"], InputError,
        "names 2 adapters, --max-loras allows 1"),
        (["--max-lora-rank", "2", "--lora-modules", "a={sports}"], InputError,
        "rank 4, and --max-lora-rank allows 2"),
        (["--lora-modules", '{"name": "a", "path": "{sports}", "base_model_name": "z"}'], InputError,
        "'z' is not served; served are base"),
        (["--lora-modules", "a={cache}"], ArtifactError, "neither a LoRA adapter"),
        (["--lora-modules", "base={sports}"], InputError, "two models would be called base"),
        (["--lora-modules", "a=nowhere/at/all"], ArtifactError, "nowhere/at/all: no such folder"),
        (["--lora-modules", "a=nowhere/there"], CheckpointError,
        "exporting it failed .*: nowhere/there: not in the local cache"),
        (["--lora-modules", "={sports}"], InputError,
        "expected a name of up to 200 printable characters, and a path"),
    ],
    ids=["off", "too many", "rank", "unknown base", "no adapter", "a name twice", "no folder",
    "nothing on the hub", "no name"],
)  # fmt: skip
def test_wrong_modules_are_refused(
    served: Live, place: Place, more: list[str], error: type[Exception], told: str
) -> None:
    names = {"{sports}": place.adapters["sports"], "{cache}": place.cache}
    for name, value in names.items():
        more = [one.replace(name, value) for one in more]
    asked, settings = read(place.arguments(*more))
    with pytest.raises(error, match=told):
        models_of(asked, settings)


def test_an_artifact_of_a_folder_says_that_its_checkpoint_is_needed(
    place: Place, artifacts: Callable[[str], Path]
) -> None:
    source = str(artifacts("minilm_like"))
    asked, settings = read(place.arguments("--lora-modules", f"a={place.adapters['sports']}", source=source))
    with pytest.raises(
        InputError, match=r"serve the checkpoint itself, or .* poolrt export " r"CHECKPOINT --lora"
    ):
        models_of(asked, settings)


def test_an_artifact_of_a_hub_id_knows_its_checkpoint(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    from poolrt.exporter import pipeline

    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "0123"
    shutil.copytree(checkpoints("bert_plain"), snapshot)
    pipeline.export(snapshot, pooler_config={"pooling_type": "MEAN"}, convert="embed", out=tmp_path)
    asked, settings = read([str(tmp_path / "tiny"), "--enable-lora"])
    (base,) = models_of(asked, settings).adapters.bases  # pyright: ignore[reportOptionalMemberAccess]
    assert base.source == "org/tiny"
    assert list(base.options) == [
        "--precision",
        "fp32",
        "--convert",
        "embed",
        "--pooler-config",
        '{"pooling_type": "MEAN"}',
    ]


def test_an_artifact_that_does_not_adapt_the_base_is_refused(
    served: Live, place: Place, artifacts: Callable[[str], Path]
) -> None:
    asked, settings = read(place.arguments("--lora-modules", f"a={artifacts('minilm_like')}"))
    with pytest.raises(InputError, match="an artifact without an adapter; serve it as a model"):
        models_of(asked, settings)
    (folder,) = (
        path for path in Path(place.cache).iterdir() if "sports" in (path / "manifest.json").read_text()
    )
    asked, settings = read(
        [str(artifacts("bert_classifier")), "--enable-lora", "--lora-modules", f"a={folder}"]
    )
    with pytest.raises(InputError, match="merged into other weights than those of bert_classifier"):
        models_of(asked, settings)


@pytest.mark.parametrize(
    ("name", "path", "taken"),
    [
        ("a" * 200, "x", True),
        ("a" * 201, "x", False),
        ("", "x", False),
        ("a", "", False),
        ("a\tb", "x", False),
    ],
)
def test_a_name_is_short_and_printable(name: str, path: str, taken: bool) -> None:
    makes = AdapterExporter([], export=never, open=never, limit=None, most_rank=None)
    # Without a base there is nothing to adapt, which is looked for once the name is admitted.
    with pytest.raises(IndexError if taken else InputError):
        makes.served(NamedAdapter(name=name, path=path))


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("not called")


@pytest.mark.parametrize(
    ("text", "rank"),
    [
        ('{"r": 4}', 4), ('{"r": 4, "rank_pattern": {"a": 16, "b": 2}}', 16),
        ('{"r": 8, "rank_pattern": null}', 8), ("{}", 0), ("{", 0),
        ('{"r": "x"}', 0), ("[]", 0), (None, 0),
    ],
)  # fmt: skip
def test_the_largest_rank_counts(tmp_path: Path, text: str | None, rank: int) -> None:
    if text is not None:
        (tmp_path / "adapter_config.json").write_text(text)
    assert adapters._rank(tmp_path) == rank


@pytest.mark.parametrize(("rank", "most", "taken"), [(8, 8, True), (9, 8, False), (9, None, True)])
def test_a_rank_up_to_the_most_is_taken(rank: int, most: int | None, taken: bool) -> None:
    makes = AdapterExporter([], export=never, open=never, limit=None, most_rank=most)
    if taken:
        makes._check_rank(NamedAdapter(name="a", path="p"), rank)
        return
    with pytest.raises(InputError, match="p: rank 9, and --max-lora-rank allows 8"):
        makes._check_rank(NamedAdapter(name="a", path="p"), rank)


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ('{"error": {"message": "why"}}', "why"),
        ('{"error": {}}', "see above"),
        ("[]", "see above"),
        ("no JSON", "see above"),
        ("", "see above"),
    ],
)
def test_what_an_export_says_is_told(printed: str, told: str) -> None:
    makes = AdapterExporter([], export=never, open=never, limit=None, most_rank=None)
    program = [
        sys.executable,
        "-S",
        "-c",
        f"import sys; print({printed!r}, end=''); sys.exit(sys.argv[1:] != ['--json'] or 3)",
    ]
    assert makes._run(program) == (3, told)
    assert not makes._children
    makes.close()
    makes.close()
    with pytest.raises(CheckpointError, match="shutting down"):
        makes._run(program)


def test_an_export_ends_with_its_server() -> None:
    makes = AdapterExporter([], export=never, open=never, limit=None, most_rank=None)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(makes._run, [sys.executable, "-S", "-c", "import time; time.sleep(60)"])
        while not makes._children:
            assert not running.done()
        makes.close()
        assert running.result(SOON_S)[0] == -signal.SIGTERM


class Failing(AdapterExporter):
    """Whatever it is asked for fails, the first few times."""

    def __init__(self, *errors: Exception, limit: int | None = None) -> None:
        super().__init__([], export=never, open=never, limit=limit, most_rank=None)
        self.errors = list(errors)

    def served(self, adapter: NamedAdapter) -> Served:
        raise self.errors.pop(0)


@pytest.mark.parametrize(
    ("error", "status", "kind", "told"),
    [
        (InputError("it is wrong"), 400, "InvalidUserInput", "it is wrong"),
        (ArtifactError("it is broken"), 400, "InvalidUserInput", "it is broken"),
        (
            EngineError("memory at 0x1"),
            500,
            "InternalServerError",
            "loading the adapter 'a' failed; the server's log says why",
        ),
        (
            PermissionError(13, "Permission denied", "/secret"),
            400,
            "InvalidUserInput",
            "the adapter 'a' cannot be read: Permission denied",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_load_that_fails_says_whose_fault_it_is(
    tmp_path: Path, error: Exception, status: int, kind: str, told: str
) -> None:
    loader = Loader(Registry([]), Failing(error), drain_s=1)
    with pytest.raises(ApiError) as raised:
        asyncio.run(loader.load(NamedAdapter(name="a", path=str(tmp_path)), in_place=False))
    loader.close()
    assert (raised.value.status, raised.value.kind, str(raised.value)) == (status, kind, told)


def test_a_load_that_fails_leaves_its_place(tmp_path: Path) -> None:
    loader = Loader(Registry([]), Failing(InputError("first"), InputError("second"), limit=1), drain_s=1)

    async def run() -> None:
        for name, told in (("a", "first"), ("b", "second")):
            with pytest.raises(ApiError, match=f"^{told}$"):
                await loader.load(NamedAdapter(name=name, path=str(tmp_path)), in_place=False)

    asyncio.run(run())
    loader.close()


def test_adapters_that_are_being_loaded_count_too(tmp_path: Path) -> None:
    loader = Loader(Registry([]), Failing(InputError("no"), limit=2), drain_s=1)
    loader._loading |= {"x", "y"}
    with pytest.raises(
        ApiError, match=r"2 adapters may be loaded \(--max-loras\), and they are; " r"unload one first"
    ):
        asyncio.run(loader.load(NamedAdapter(name="a", path=str(tmp_path)), in_place=False))
    with pytest.raises(ApiError, match=r"^no$"):
        asyncio.run(loader.load(NamedAdapter(name="y", path=str(tmp_path)), in_place=False))
    loader.close()


@pytest.mark.parametrize(("running", "waits"), [(0, None), (1, 0.0)], ids=["idle", "busy"])
def test_a_model_is_closed_when_its_time_to_drain_is_over(running: int, waits: float | None) -> None:
    closed: list[float | None] = []
    served = Served(names=("a",), open=never, running=running)
    served.model = SimpleNamespace(close=closed.append)  # pyright: ignore[reportAttributeAccessIssue]
    loader = Loader(Registry([]), Failing(), drain_s=0.05)
    asyncio.run(loader._drained(served))
    loader.close()
    assert closed == [waits]


# --- loaded while serving
# -----------------------------------------------------------------------------------------------------------


def test_an_adapter_comes_and_goes_beside_the_others(served: Live, place: Place) -> None:
    """Loading exports it, which takes seconds; requests are answered meanwhile."""
    before = vectors(served, None)
    body = {
        "lora_name": "law",
        "lora_path": place.adapters["law"],
        "load_inplace": False,
        "is_3d_lora_weight": False,
    }
    with ThreadPoolExecutor(1) as thread:
        loading = thread.submit(served.client.post, "/v1/load_lora_adapter", json=body, timeout=SOON_S)
        answered = 0
        while not loading.done():
            np.testing.assert_array_equal(vectors(served, None), before)
            answered += 1
        got = loading.result()
    assert (got.status_code, got.text) == (200, "Success: LoRA adapter 'law' added successfully.")
    assert got.headers["content-type"].startswith("text/plain")
    assert answered > 10
    assert ids(served) == ["base", "sports", "law"]
    first = vectors(served, "law")
    assert np.abs(first - vectors(served, "sports")).max() > 0.01

    refused = served.refused("/v1/load_lora_adapter", body)
    assert refused["type"] == "InvalidUserInput"
    assert "has already been loaded" in refused["message"]
    replaced = served.post(
        "/v1/load_lora_adapter", {**body, "lora_path": place.adapters["sports"], "load_inplace": True}
    )
    assert replaced.status_code == 200
    np.testing.assert_array_equal(vectors(served, "law"), vectors(served, "sports"))

    gone = served.post("/v1/unload_lora_adapter", {"lora_name": "law"})
    assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'law' removed successfully.")
    assert ids(served) == ["base", "sports"]
    assert served.refused("/v1/embeddings", {"model": "law", "input": "a"}, 404)["type"] == "NotFoundError"
    assert served.refused("/v1/unload_lora_adapter", {"lora_name": "law"}, 404)["type"] == "NotFoundError"


def test_unloading_waits_for_the_last_request(
    served: Live, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        served.post(
            "/v1/load_lora_adapter", {"lora_name": "law", "lora_path": place.adapters["sports"]}
        ).status_code
        == 200
    )
    adapter = served.here.registry.adapter("law")
    assert adapter is not None
    begun, may_go, run = threading.Event(), threading.Event(), adapter.model.worker.session.run

    def slowly(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert may_go.wait(SOON_S)
        return run(*arguments, **options)

    monkeypatch.setattr(adapter.model.worker.session, "run", slowly)
    with ThreadPoolExecutor(2) as threads:
        asking = threads.submit(vectors, served, "law")
        assert begun.wait(SOON_S)
        unloading = threads.submit(served.post, "/v1/unload_lora_adapter", {"lora_name": "law"})
        while "law" in ids(served):
            pass
        served.refused("/v1/embeddings", {"model": "law", "input": "a"}, 404)
        assert not unloading.done()
        may_go.set()
        np.testing.assert_allclose(asking.result(), vectors(served, "sports"), rtol=0, atol=1e-6)
        assert unloading.result().status_code == 200


@pytest.mark.parametrize(
    ("route", "body", "status", "kind", "told"),
    [
        ("load", {"lora_name": "", "lora_path": "x"}, 400, "InvalidUserInput",
        "Both 'lora_name' and 'lora_path' must be provided"),
        ("load", {"lora_name": "a"}, 400, "Bad Request", "Field required"),
        ("load", {"lora_name": "a", "lora_path": "/nowhere"}, 404, "NotFoundError",
        "Loading lora a failed: No adapter found for"),
        ("load", {"lora_name": "a", "lora_path": "x\0"}, 404, "NotFoundError", "No adapter found"),
        ("load", {"lora_name": "a", "lora_path": "x" * 5000}, 404, "NotFoundError", "No adapter found"),
        ("load", {"lora_name": "a", "lora_path": "~nobody-of-this-name/x"}, 404, "NotFoundError",
        "No adapter found"),
        ("load", {"lora_name": "a", "lora_path": "org/on-the-hub"}, 404, "NotFoundError",
        "named at start, with --lora-modules"),
        ("load", {"lora_name": "base", "lora_path": "{sports}"}, 400, "InvalidUserInput",
        "is the name of a served model"),
        ("load", {"lora_name": "a\n", "lora_path": "{sports}"}, 400, "InvalidUserInput", "printable"),
        ("load", {"lora_name": "a", "lora_path": "{cache}"}, 400, "InvalidUserInput",
        "neither a LoRA adapter"),
        ("load", {"lora_name": "a", "lora_path": "{sports}", "base_model_name": "z"}, 400, "InvalidUserInput",
        "served are base"),
        ("unload", {"lora_name": ""}, 400, "InvalidUserInput", "'lora_name' needs to be provided"),
        ("unload", {"lora_name": "base"}, 404, "NotFoundError", "The lora adapter 'base' cannot be found."),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_told(
    served: Live, place: Place, route: str, body: Any, status: int, kind: str, told: str
) -> None:
    body = json.loads(
        json.dumps(body).replace("{sports}", place.adapters["sports"]).replace("{cache}", place.cache)
    )
    refused = served.refused(f"/v1/{route}_lora_adapter", body, status)
    assert refused["type"] == kind
    assert told in refused["message"]
    assert place.cache not in refused["message"]
    assert ids(served) == ["base", "sports"]


def test_an_adapter_that_does_not_fit_is_told_with_its_tensors(
    served: Live, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = peft.adapted(checkpoints("minilm_like"), tmp_path / "broken")
    path = folder / "adapter_model.safetensors"
    save_file({**load_file(path), "base_model.model.extra.lora_A.weight": torch.zeros(4, 4)}, path)
    refused = served.refused("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": str(folder)})
    assert refused["type"] == "InvalidUserInput"
    assert "extra.weight has no place in the checkpoint" in refused["message"]
    assert str(tmp_path) not in refused["message"]


def test_the_limit_counts_loaded_adapters(
    served: Live, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert served.here.loader is not None
    monkeypatch.setattr(served.here.loader.adapters, "limit", 1)
    refused = served.refused(
        "/v1/load_lora_adapter", {"lora_name": "a", "lora_path": place.adapters["sports"]}
    )
    assert "1 adapters may be loaded (--max-loras), and they are" in refused["message"]


def test_a_server_that_stops_does_not_wait_for_an_export(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOW, "1")
    asked, settings = read(place.arguments("--shutdown-timeout", "60"))
    models = models_of(asked, settings)
    assert models.adapters is not None
    models.adapters._export = functools.partial(exported, cache=tmp_path)  # where the adapter is not yet
    with (
        serving(models.registry, settings, adapters=models.adapters, owns_models=True) as made,
        ThreadPoolExecutor(1) as thread,
    ):
        assert made.here.registry.ready.wait(SOON_S)
        body = {"lora_name": "law", "lora_path": place.adapters["law"]}
        loading = thread.submit(made.client.post, "/v1/load_lora_adapter", json=body, timeout=SOON_S)
        while not models.adapters._children:
            assert not loading.done(), loading.result().text
        made.server.handle_exit(signal.SIGTERM, None)
        got = loading.result()
        assert (got.status_code, got.json()["error"]["type"]) == (503, "ServiceUnavailableError")
    assert not list(tmp_path.glob("*/manifest.json"))


# --- who may
# ------------------------------------------------------------------------------------------------------------


def test_requests_load_nothing_unless_the_operator_allows_it(embedder: Live) -> None:
    for route in ("load", "unload"):
        got = embedder.post(f"/v1/{route}_lora_adapter", {"lora_name": "a", "lora_path": "/etc"})
        assert (got.status_code, got.json()) == (404, {"detail": "Not Found"})


def test_loading_needs_the_key_where_one_is_set(served: Live, place: Place) -> None:
    settings = Settings(runtime_lora=True, api_keys=("secret",))
    assert served.here.loader is not None
    with serving(served.here.registry, settings, adapters=served.here.loader.adapters) as made:
        body = {"lora_name": "a", "lora_path": "/nowhere"}
        for route in ("load", "unload"):
            assert made.post(f"/v1/{route}_lora_adapter", body).status_code == 401
            keyed = made.post(f"/v1/{route}_lora_adapter", body, headers={"Authorization": "Bearer secret"})
            assert keyed.status_code == 404
            assert keyed.json()["error"]["type"] == "NotFoundError"


def test_a_page_in_a_browser_loads_nothing_where_no_key_is_set(served: Live, place: Place) -> None:
    for route in ("load", "unload"):
        body = {"lora_name": "sports", "lora_path": place.adapters["sports"]}
        got = served.post(f"/v1/{route}_lora_adapter", body, headers={"Origin": "https://a.example"})
        assert got.status_code == 403
    assert ids(served) == ["base", "sports"]


def test_loading_without_enable_lora_says_so(embedder: Live) -> None:
    with serving(embedder.here.registry, Settings(runtime_lora=True)) as made:
        refused = made.refused("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "b"})
        assert (refused["type"], refused["message"]) == (
            "InvalidUserInput",
            "LoRA is not enabled; start the server with --enable-lora",
        )
