"""The files of examples/deploy against what they name: flags, routes, metrics, folders, extras."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from poolrt.runtime.loader import load
from poolrt.runtime.model import Model
from poolrt.serve.cli import parse, serve, settings_of
from poolrt.serve.endpoints.routes import PROBES
from poolrt.serve.settings import Settings
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.places import ALERTS, CHART, DEPLOY, DOCKERFILES, ROOT, UNIT
from tests.serve.cases import TEXT
from tests.serve.conftest import live

OTHERS = {"up", "changes", "process_max_fds"}
"""Metrics that Prometheus itself adds, or that a system without limits lacks."""


@pytest.fixture(scope="module")
def model(artifacts: Callable[[str], Path]) -> Iterator[Model]:
    with load(artifacts("minilm_like"), threads=1, check="quick") as opened:
        yield opened


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Word and rest of each instruction, continuation lines joined."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", read(dockerfile)))
    return [(line.split()[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def variables(dockerfile: Path) -> dict[str, str]:
    """poolrt's variables in an image, whose entry is `poolrt serve` and nothing more."""
    steps = instructions(dockerfile)
    assert [json.loads(rest) for word, rest in steps if word == "ENTRYPOINT"] == [["poolrt", "serve"]]
    assert "CMD" not in [word for word, _ in steps], "it would stand in the way of POOLRT_ARTIFACTS"
    pairs = [pair.split("=", 1) for word, rest in steps if word == "ENV" for pair in rest.split()]
    return {name: value for name, value in pairs if name.startswith("POOLRT_")}


def unit_variables() -> dict[str, str]:
    """poolrt's variables in the unit of systemd."""
    words = " ".join(re.findall(r"(?m)^Environment=(.*)$", read(UNIT))).split()
    return {name: value for name, _, value in (word.partition("=") for word in words) if "POOLRT_" in name}


def commands() -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Every command line of the files: its place, the arguments behind `poolrt serve`, and variables."""
    for dockerfile in DOCKERFILES:
        yield dockerfile.name, ["/models/m"], variables(dockerfile)
    compose = yaml.safe_load(read(DEPLOY / "compose" / "compose.yaml"))["services"]["poolrt"]
    own = {name: "/models/m" for name in compose["environment"] if name.startswith("POOLRT_")}
    yield "compose.yaml", compose["command"], variables(DEPLOY / "docker" / "cpu.Dockerfile") | own
    assert re.findall(r"(?m)^ExecStart=(.*)$", read(UNIT)) == ["/opt/poolrt/bin/poolrt serve"]
    yield "poolrt.service", [], unit_variables()
    values = yaml.safe_load(read(CHART / "values.yaml"))
    template = re.findall(
        r"(?m)^ +- (--[a-z-]+=)\{\{(.*?)\}\}", read(CHART / "templates" / "deployment.yaml")
    )
    written = [flag + ("5" if "Seconds" in value else "http://c:4318") for flag, value in template]
    assert len(written) == 2
    image = variables(DEPLOY / "docker" / "cpu.Dockerfile")
    yield "helm", [*values["artifacts"], *written, *values["args"]], image


@pytest.mark.parametrize(
    ("place", "arguments", "environment"), list(commands()), ids=[place for place, *_ in commands()]
)
def test_every_flag_is_one_of_the_server(
    place: str, arguments: list[str], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    known = {name for value in serve.values for name in value.variables("serve")}
    assert set(environment) <= known
    for name, text in (environment | {"POOLRT_API_KEY": "key"}).items():
        monkeypatch.setenv(name, text)
    options, notes = parse(arguments)
    settings = settings_of(options)
    assert notes == [], "no flag is without effect"
    assert options.artifacts
    assert settings.api_keys == ("key",)
    if place != "poolrt.service":
        assert (settings.host, settings.port, settings.log_format) == ("0.0.0.0", 8000, "json")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_is_small_and_confined(dockerfile: Path):
    steps = instructions(dockerfile)
    words = [word for word, _ in steps]
    assert words.count("FROM") == 2
    behind = steps[len(words) - words[::-1].index("FROM") - 1 :]
    values = dict(behind)
    assert values["USER"] == "10001:10001"
    assert values["VOLUME"] == "/cache"
    assert "pip" not in " ".join(rest for word, rest in behind if word == "RUN")
    assert not re.search(r"curl|wget|apt-get", " ".join(rest for _, rest in steps))
    # What is copied is there, and let through to the build.
    copied = {
        path for word, rest in steps if word == "COPY" and "--from" not in rest for path in rest.split()[:-1]
    }
    assert all((ROOT / path).exists() for path in copied)
    admitted = re.findall(r"(?m)^!(.*)$", read(dockerfile.with_name(dockerfile.name + ".dockerignore")))
    assert sorted(admitted) == sorted(copied)
    extras = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    ((_, asked),) = [entry for entry in steps if entry[0] == "ARG" and entry[1].startswith("EXTRAS=")]
    assert set(asked.removeprefix("EXTRAS=").split(",")) <= set(extras)


def test_the_source_folders_of_the_package_are_copied():
    settings = tomllib.loads(read(ROOT / "pyproject.toml"))["tool"]["setuptools"]["package-dir"]
    copied = {
        path
        for word, rest in instructions(DEPLOY / "docker" / "cpu.Dockerfile")
        if word == "COPY" and "--from" not in rest
        for path in rest.split()[:-1]
    }
    assert {folder.split("/")[0] for folder in settings.values()} <= copied


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_the_health_check_of_an_image_works(dockerfile: Path, model: Model):
    ((_, check),) = [entry for entry in instructions(dockerfile) if entry[0] == "HEALTHCHECK"]
    program, option, code = json.loads(check.partition(" CMD ")[2])
    assert (program, option) == ("python", "-c")
    with live(model, settings=Settings(api_keys=("key",))) as server:
        command = [sys.executable, "-I", "-S", "-c", code]
        environment = {"POOLRT_PORT": str(server.port)}
        assert subprocess.run(command, env=environment, check=False).returncode == 0
        server.app.state.context.state.draining = True
        assert (
            subprocess.run(command, env=environment, check=False, stderr=subprocess.DEVNULL).returncode == 1
        )
        server.app.state.context.state.draining = False


def test_probes_are_the_routes_that_need_no_key():
    template = read(CHART / "templates" / "deployment.yaml")
    probes = dict(re.findall(r"(\w+)Probe:\s+httpGet:\s+path: (\S+)", template))
    assert probes == {"startup": "/ready", "readiness": "/ready", "liveness": "/live"}
    assert set(probes.values()) <= PROBES


def test_a_pod_lives_as_long_as_its_requests():
    compose = yaml.safe_load(read(DEPLOY / "compose" / "compose.yaml"))["services"]["poolrt"]
    (limit,) = [flag for flag in compose["command"] if flag.startswith("--shutdown-timeout")]
    assert int(compose["stop_grace_period"].removesuffix("s")) > int(limit.partition("=")[2])
    (limit_s,) = re.findall(r"TimeoutStopSec=(\d+)", read(UNIT))
    assert int(limit_s) > int(unit_variables()["POOLRT_SHUTDOWN_TIMEOUT"])


def dashboard() -> dict[str, Any]:
    return json.loads(read(DEPLOY / "compose" / "grafana" / "dashboards" / "poolrt.json"))


def expressions() -> Iterator[str]:
    """Every expression of PromQL in the files."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield re.fullmatch(r"label_values\((.*), \w+\)", variable["definition"])[1]  # pyright: ignore[reportOptionalSubscript]
    for group in yaml.safe_load(read(ALERTS))["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]
    adapter = yaml.safe_load(read(DEPLOY / "helm" / "prometheus-adapter.yaml"))["rules"]["custom"][0]
    yield adapter["seriesQuery"]
    yield re.sub(r"<<\.LabelMatchers>>", "", adapter["metricsQuery"]).replace("<<.GroupBy>>", "pod")
    (query,) = re.findall(r"query: (.*)", read(CHART / "templates" / "keda.yaml"))
    yield re.sub(r"\{\{.*?\}\}", "x", query)


def metrics_of(expression: str) -> tuple[set[str], set[str]]:
    """The metrics and the labels that an expression names."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"\"", text))
    for names in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", text):
        labels |= {name.strip() for name in names.split(",")}
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", text)
    return set(re.findall(r"(?<![\w.$])[A-Za-z_][\w:]*(?!\w*\s*\()", text)), labels


@pytest.fixture(scope="module")
def scraped(model: Model) -> dict[str, set[str]]:
    """Sample -> its labels, of a server that has computed and refused something."""
    with live(model) as server:
        server.ask("/v1/embeddings", {"input": TEXT})
        server.refused("/v1/embeddings", {"input": []})
        text = server.client.get("/metrics").text
    samples: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels)
    return samples


def test_every_metric_and_label_is_one_of_the_server(scraped: dict[str, set[str]]):
    added = {"job", "instance", "namespace", "pod", "service", "le"}
    for expression in expressions():
        names, labels = metrics_of(expression)
        assert names, expression
        assert names - OTHERS <= set(scraped), expression
        known = set().union(*(scraped[name] for name in names - OTHERS)) | added
        assert labels <= known, expression


def test_the_reader_of_expressions_finds_what_is_wrong(scraped: dict[str, set[str]]):
    names, labels = metrics_of('sum by (no_label) (rate(no_metric_total{reason=~"a b"}[5m])) / up > 0.5')
    assert names == {"no_metric_total", "up"}
    assert labels == {"no_label", "reason"}
    assert "no_metric_total" not in scraped


def test_reasons_and_statuses_of_expressions_are_real():
    from poolrt.serve.metrics.prometheus import GROUPS, REFUSALS

    text = "\n".join(expressions())
    reasons = {name for names in re.findall(r'reason=~?"([^"]*)"', text) for name in names.split("|")}
    assert reasons
    assert reasons <= set(REFUSALS)
    assert set(re.findall(r'status="([^"]*)"', text)) <= set(GROUPS)


def test_expressions_are_promql():
    parser = pytest.importorskip("promql_parser")
    for expression in expressions():
        parser.parse(expression.replace("$__rate_interval", "5m"))
    with pytest.raises(ValueError, match="unclosed"):
        parser.parse("sum by (rate(")


def test_the_dashboard_can_be_laid_out():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(panels)))
    assert used <= variables


def test_grafana_finds_dashboard_and_data_source():
    compose = yaml.safe_load(read(DEPLOY / "compose" / "compose.yaml"))["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    provider = yaml.safe_load(read(DEPLOY / "compose/grafana/provisioning/dashboards/poolrt.yaml"))[
        "providers"
    ][0]
    assert provider["options"]["path"] == mounts["./grafana/dashboards"]
    source = yaml.safe_load(read(DEPLOY / "compose/grafana/provisioning/datasources/prometheus.yaml"))
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    scrape = yaml.safe_load(read(DEPLOY / "compose/prometheus/prometheus.yml"))["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == ["poolrt:8000"]
    (secret,) = compose["prometheus"]["secrets"]
    assert scrape["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    for path in (*mounts, "./prometheus"):
        assert (DEPLOY / "compose" / path).is_dir()


def test_the_chart_has_the_same_alerts():
    assert read(CHART / "alerts.yml") == read(ALERTS)


def test_the_chart_has_the_version_of_the_package():
    version = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["version"]
    chart = yaml.safe_load(read(CHART / "Chart.yaml"))
    assert chart["appVersion"] == version
