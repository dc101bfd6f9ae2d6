"""poolrt.ray on a real Ray Serve: models by name, where requests go, and replicas that are killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from .clients import SAME, Client, Reply, expected, until

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")

LOAD_S = 20.0
SERVER = Client(port=18765)
ask = SERVER.ask


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"port": SERVER.port})
    yield
    serve.shutdown()
    ray.shutdown()


def replicas(application: str) -> list[int]:
    """The process of each replica. Ray writes what an actor is into its command line."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if title.startswith(f"ray::ServeReplica:{application}:poolrt".encode()):
            found.append(int(path.parent.name))
    return found


def test_no_request_is_lost_when_a_replica_is_killed(
    cluster: None, artifacts: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    import poolrt.ray  # pyright: ignore[reportMissingImports]

    artifact = artifacts("minilm_like")
    serve.run(poolrt.ray.app([str(artifact)], replicas=2, num_cpus=0.5, fronts=1), name="kill")
    before = replicas("kill")
    assert len(before) == 2
    with SERVER.under_load() as seen:
        time.sleep(LOAD_S / 4)
        first = Counter(reply.replica for reply in seen.replies)
        os.kill(before[0], signal.SIGKILL)
        time.sleep(LOAD_S * 3 / 4)
    with capsys.disabled():
        print(f"\none of two killed: {seen.report()}")
    assert seen.lost == 0
    np.testing.assert_allclose(seen.vectors(), [expected(artifact)] * len(seen.replies), atol=SAME)
    assert set(replicas("kill")) != set(before)
    # The least busy one has the next request, so both had their share.
    assert len(first) == 2
    assert min(first.values()) > 0.2 * first.total()
    serve.delete("kill")


def test_several_models_are_found_by_name_and_share_replicas(
    cluster: None, artifacts: Callable[[str], Path]
) -> None:
    import poolrt.ray  # pyright: ignore[reportMissingImports]

    named = {"one": str(artifacts("minilm_like")), "two": str(artifacts("bert_plain"))}
    serve.run(poolrt.ray.app(named, replicas=2, num_cpus=0.5, models_per_replica=1, fronts=1), name="several")
    # The list opens no model: it is read from the manifests.
    assert [card["max_model_len"] for card in ask("/v1/models").body["data"]] == [64, 128]
    for name in ("one", "two", "one", "bert_plain", "ONE:latest"):
        path = "/api/embed" if ":" in name else "/v1/embeddings"
        reply = ask(path, {"input": "hello", "model": name})
        assert reply.status == 200, reply.body

    def homes() -> dict[str, set[str]]:
        return {
            name: {ask("/v1/embeddings", {"input": "hello", "model": name}).replica for _ in range(5)}
            for name in named
        }

    # Each replica holds one of them, and requests go where their model is.
    until(lambda: sorted(map(len, homes().values())) == [1, 1] and homes()["one"] != homes()["two"])
    assert {card["id"] for card in ask("/v1/models").body["data"]} == {"one", "two"}
    assert ask("/v1/models/two").body["id"] == "two"
    refused = ask("/v1/embeddings", {"input": "hello", "model": "three"})
    assert refused.status == 404
    assert "Valid names: one, two" in refused.body["error"]["message"]
    assert ask("/metrics").status == 404
    assert "user_config" in ask("/v1/artifacts/load", {}).body["error"]["message"]
    serve.delete("several")


def test_one_replica_opens_models_on_demand_and_closes_the_one_used_longest_ago(
    cluster: None, artifacts: Callable[[str], Path]
) -> None:
    import poolrt.ray  # pyright: ignore[reportMissingImports]

    names = ("minilm_like", "bert_plain", "bert_classifier")
    named = {name: str(artifacts(name)) for name in names}
    handle = serve.run(
        poolrt.ray.app(named, replicas=1, num_cpus=0.5, models_per_replica=2, fronts=1), name="evict"
    )
    assert handle is not None
    for name in (*names, names[0]):
        path = "/classify" if name == "bert_classifier" else "/v1/embeddings"
        assert ask(path, {"input": "hello", "model": name}).status == 200
    backend = serve.get_deployment_handle("poolrt", "evict")
    assert backend.opened.remote().result() == ["bert_classifier", "minilm_like"]
    serve.delete("evict")


def test_models_that_take_each_others_place_lose_no_request(
    cluster: None, artifacts: Callable[[str], Path]
) -> None:
    import poolrt.ray  # pyright: ignore[reportMissingImports]

    named = {name: str(artifacts(name)) for name in ("minilm_like", "bert_plain")}
    serve.run(poolrt.ray.app(named, replicas=1, num_cpus=0.5, models_per_replica=1, fronts=1), name="turns")

    def answered(number: int) -> tuple[int, bool]:
        name = tuple(named)[number % 2]
        reply = ask("/v1/embeddings", {"input": ["hello"] * 50, "model": name})
        return reply.status, reply.body.get("model") == name

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(answered, range(120))) == {(200, True)}
    serve.delete("turns")


def test_sticky_requests_stay_with_a_replica_by_their_beginning(
    cluster: None, artifacts: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each query is at home in one replica, and both have some. A home that is killed while it computes, or
    is much busier than the other, passes its requests on."""
    import poolrt.ray  # pyright: ignore[reportMissingImports]

    artifact = str(artifacts("minilm_like"))
    serve.run(
        poolrt.ray.app(
            [artifact], replicas=2, num_cpus=0.5, fronts=1, sticky=True, flags="--max-queued-tokens 100000000"
        ),
        name="sticky",
    )

    def home(query: str) -> str:
        return ask("/rerank", {"query": query, "documents": ["a"]}).replica

    queries = [f"query {number}" for number in range(16)]
    homes = {query: home(query) for query in queries}
    for _ in range(3):
        assert {query: home(query) for query in queries} == homes
    assert len(set(homes.values())) == 2

    query = queries[0]
    long = {"query": query, "truncate_prompt_tokens": -1}
    documents = [f"document {number} " + "and more " * 40 for number in range(2000)]
    alone = ask("/rerank", {**long, "documents": documents})
    assert (alone.status, alone.replica) == (200, homes[query])
    begun, replies = time.monotonic(), []

    def long_request() -> None:
        replies.append(ask("/rerank", {**long, "documents": documents}))

    asking = threading.Thread(target=long_request)
    asking.start()
    time.sleep(0.3)
    assert not replies
    actor = ray.get_actor(f"SERVE_REPLICA::sticky#poolrt#{homes[query]}", namespace="serve")
    ray.kill(actor)
    asking.join()
    [after] = replies
    with capsys.disabled():
        print(f"\nkilled while it computed: {after.status} in {time.monotonic() - begun:.2f} s")
    assert after.status == 200
    assert after.replica != homes[query]
    assert scores(after) == pytest.approx(scores(alone), abs=SAME)

    until(lambda: len({home(query) for query in queries}) == 2)
    busy: list[Reply] = []

    def busy_request() -> None:
        busy.append(ask("/rerank", {**long, "documents": documents[:500]}))

    threads = [threading.Thread(target=busy_request) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {reply.status for reply in busy} == {200}
    assert len({reply.replica for reply in busy}) == 2
    serve.delete("sticky")


def scores(reply: Reply) -> list[float]:
    """The scores of a rerank, in the order of its documents."""
    by_index = {result["index"]: result["relevance_score"] for result in reply.body["results"]}
    return [by_index[index] for index in range(len(by_index))]


def test_the_file_for_kuberay_is_what_serve_reads() -> None:
    import yaml
    from poolrt.serve.ray.application import Options
    from poolrt.serve.ray.artifacts import entries
    from ray.serve.schema import ServeDeploySchema  # pyright: ignore[reportMissingImports]

    path = Path(__file__).parents[2] / "examples" / "ray" / "rayservice.yaml"
    service = yaml.safe_load(path.read_text())
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    [application] = ServeDeploySchema.model_validate(
        yaml.safe_load(service["spec"]["serveConfigV2"])
    ).applications
    assert application.import_path == "poolrt.ray:build"
    known = set(Options.__dataclass_fields__) | {"artifacts", "flags", "autoscaling_config"}
    assert set(application.args) <= known
    [deployment] = application.deployments
    assert deployment.name == "poolrt"
    [entry] = entries(deployment.user_config["artifacts"])
    assert entry.artifact.startswith("/artifacts/")
    cluster = service["spec"]["rayClusterConfig"]
    templates = [cluster["headGroupSpec"]["template"], *(g["template"] for g in cluster["workerGroupSpecs"])]
    for template in templates:
        [container] = template["spec"]["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
