"""Who may use the server: the key on every route, request ids, CORS, the addresses it listens on."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

import httpx
import pytest
from poolrt.runtime.errors import InputError
from poolrt.runtime.model import Model
from poolrt.serve.app import routes
from poolrt.serve.cli import check_exposure
from poolrt.serve.endpoints import routes as table
from poolrt.serve.headers import declared_bytes, header
from poolrt.serve.settings import Cors, Settings

from tests.serve.conftest import Live, live

KEY = {"Authorization": "Bearer one"}
ROUTES = sorted(
    {
        (method, route.path)
        for route in routes(Settings())
        for method in route.methods or ()
        if method != "HEAD"
    }
)


@pytest.fixture(scope="module")
def guarded(models: Callable[[str], Model]) -> Iterator[Live]:
    cors = Cors(origins=("https://a.example",))
    with live(
        models("minilm_like"), settings=Settings(api_keys=("one", "two"), request_id_headers=True, cors=cors)
    ) as server:
        yield server


def test_all_routes_are_enumerated():
    assert {route.path for route in table.ROUTES if route.is_on(Settings())} <= {path for _, path in ROUTES}
    assert len(ROUTES) > 30


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda value: str(value))
def test_every_route_but_health_needs_a_key(guarded: Live, method, path):
    without = guarded.client.request(method, path, json={} if method == "POST" else None)
    if path in table.PROBES:
        assert without.status_code == 200
        return
    assert without.status_code == 401
    assert without.json() == {"error": "Unauthorized"}
    assert (
        guarded.client.request(method, path, json={} if method == "POST" else None, headers=KEY).status_code
        != 401
    )


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/nothing", "//v1/models", "/health/", "/Health", "/%68ealth/x"]
)
def test_paths_that_do_not_exist_need_a_key_too(guarded: Live, path):
    assert guarded.client.get(path).status_code == 401


@pytest.mark.parametrize(
    "value",
    ["", "one", "Bearer", "Bearer On", "Bearer onee", "Basic one", "Bearer one two", "Digest one", "Basic !"],
)
def test_a_wrong_key_is_refused(guarded: Live, value):
    assert guarded.client.get("/v1/models", headers={"Authorization": value}).status_code == 401


@pytest.mark.parametrize(
    "value", ["Bearer one", "bearer two", "BEARER  one", "Basic " + base64.b64encode(b"anyone:two").decode()]
)
def test_any_of_the_keys_opens(guarded: Live, value):
    assert guarded.client.get("/v1/models", headers={"Authorization": value}).status_code == 200


def test_a_browser_is_asked_for_the_key_on_pages_only(guarded: Live):
    html = {"Accept": "text/html"}
    assert guarded.client.get("/docs", headers=html).headers["www-authenticate"].startswith("Basic")
    assert guarded.client.get("/v1/models", headers=html).headers["www-authenticate"] == "Bearer"


def test_every_answer_carries_a_request_id(guarded: Live):
    assert guarded.client.get("/health", headers={"X-Request-Id": "its"}).headers["x-request-id"] == "its"
    refused = guarded.client.get("/v1/models")
    assert refused.status_code == 401
    assert len(refused.headers["x-request-id"]) == 16
    assert (
        guarded.client.get("/health", headers={"X-Request-Id": "a" * 300}).headers["x-request-id"]
        == "a" * 256
    )
    other = guarded.client.get("/v1/models").headers["x-request-id"]
    assert other != refused.headers["x-request-id"]


def test_request_ids_are_off_by_default(embedder: Live):
    assert "x-request-id" not in embedder.client.get("/health", headers={"X-Request-Id": "its"}).headers


def test_cors_answers_the_origins_allowed(guarded: Live):
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert (
        guarded.client.options("/v1/embeddings", headers=asked).headers["access-control-allow-origin"]
        == "https://a.example"
    )
    assert (
        guarded.client.options("/v1/embeddings", headers=asked | {"Origin": "https://b.example"}).status_code
        == 400
    )
    got = guarded.client.get("/v1/models", headers=KEY | {"Origin": "https://a.example"})
    assert got.headers["access-control-allow-origin"] == "https://a.example"
    assert (
        "access-control-allow-origin"
        not in guarded.client.get("/v1/models", headers={"Origin": "https://a.example"}).headers
    )


def test_a_prefix_of_a_proxy_is_served_and_guarded(models: Callable[[str], Model]):
    with live(models("minilm_like"), settings=Settings(api_keys=("one",), root_path="/pool")) as server:
        assert server.client.get("/health").status_code == 200
        assert server.client.get("/v1/models").status_code == 401
        assert server.client.get("/v1/models", headers=KEY).status_code == 200
        # A proxy that strips the prefix itself.
        bare = httpx.get(f"http://127.0.0.1:{server.port}/v1/models", headers=KEY)
        assert bare.status_code == 200
        assert httpx.get(f"http://127.0.0.1:{server.port}/v1/models").status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_a_server_without_a_key_stays_on_this_machine(host):
    with pytest.raises(InputError, match="no key is set"):
        check_exposure(Settings(host=host), insecure=False)
    check_exposure(Settings(host=host, api_keys=("x",)), insecure=False)
    check_exposure(Settings(host=host), insecure=True)


@pytest.mark.parametrize(
    "settings", [Settings(), Settings(host="localhost"), Settings(host="0.0.0.0", uds="/run/poolrt.sock")]
)
def test_loopback_needs_no_key(settings):
    check_exposure(settings, insecure=False)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (b"12", 12), (b"0", 0), (b"-1", 0), (b"+1", 0), (b"1e3", 0), (b"", 0), ("\u0661".encode(), 0),
        (b"9" * 19, 10**19 - 1),
        (b"9" * 20, 0),
    ],
)  # fmt: skip
def test_a_declared_size_is_a_number_or_nothing(value: bytes, size: int):
    assert declared_bytes({"headers": [(b"host", b"x"), (b"content-length", value)]}) == size
    assert declared_bytes({"headers": []}) == declared_bytes({}) == 0


def test_the_first_header_of_a_name_counts():
    scope = {"headers": [(b"accept", b"a"), (b"x-a", b"\xe9"), (b"x-a", b"2")]}
    assert (header(scope, b"x-a"), header(scope, b"x-b")) == ("\xe9", None)


def test_a_preflight_needs_no_key_and_no_page_asks_for_it_in_a_script(guarded: Live):
    assert guarded.client.options("/v1/embeddings").status_code != 401
    for path, accept, scheme in (
        ("/", "text/html", "Basic"),
        ("/", "*/*", "Bearer"),
        ("/redoc", "text/html,*/*", "Basic"),
    ):
        told = guarded.client.get(path, headers={"Accept": accept})
        assert told.status_code == 401
        assert told.headers["www-authenticate"].split()[0] == scheme


@pytest.mark.parametrize("path", ["/pool/", "/pool/docs", "/docs"])
def test_pages_behind_a_prefix_need_the_key(models: Callable[[str], Model], path: str):
    with live(models("minilm_like"), settings=Settings(api_keys=("one",), root_path="/pool/")) as server:
        url = f"http://127.0.0.1:{server.port}{path}"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers=KEY).status_code == 200
