"""The files of examples/deploy through the tools of those who wrote the formats: hadolint, Helm, the schemas
of Kubernetes, promtool, systemd-analyze. `make deploy-check` installs those that the package index has, and
runs nothing but this file: it needs no engine and no torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.places import ALERTS, CHART, DOCKERFILES, ROOT, UNIT

pytestmark = pytest.mark.slow


def tool(name: str) -> str:
    """The path of a program; skips where it is not installed."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def output(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles_are_clean(dockerfile: Path):
    assert output(tool("hadolint"), str(dockerfile)) == ""


def test_alerts_fire_when_they_should():
    promtool = tool("promtool")
    output(promtool, "check", "rules", str(ALERTS))
    output(promtool, "test", "rules", "alerts.test.yml", cwd=ALERTS.parent)


def test_the_unit_is_one():
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", str(UNIT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if "is not executable" not in line]
    assert complaints == []


def rendered(**values: Any) -> list[dict[str, Any]]:
    """The objects that Helm makes of the chart, which its linter has passed."""
    pytest.importorskip("helm_sdkpy", reason="needs Python 3.12 and helm-sdkpy")
    text = output(
        sys.executable, "-m", "tests.deploy.rendering", str(CHART), json.dumps(values),
        cwd=ROOT, environment=os.environ | {"HELM_DRIVER": "memory"},
    )  # fmt: skip
    return json.loads(text)


KEY = {"existingSecret": "mine"}


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ({"apiKey": KEY}, {"Deployment", "Service", "PodDisruptionBudget"}),
        (
            {
                "apiKey": {"value": "k"}, "autoscaling": {"enabled": True}, "otlpEndpoint": "http://c:4318",
                "metrics": {"serviceMonitor": True, "rules": True}, "env": [{"name": "A", "value": "b"}],
                "podLabels": {"a": "b"}, "podAnnotations": {"a": "b"}, "nodeSelector": {"a": "b"},
                "tolerations": [{"operator": "Exists"}], "imagePullSecrets": [{"name": "s"}],
                "serviceAccount": {"name": "s"}, "runtimeClassName": "nvidia",
                "models": {"volume": {"image": {"reference": "r/models:1"}}},
            },
            {
                "Deployment", "Service", "PodDisruptionBudget", "Secret", "HorizontalPodAutoscaler",
                "ServiceMonitor", "PrometheusRule",
            },
        ),
        (
            {
                "apiKey": KEY, "autoscaling": {"enabled": True, "keda": {"enabled": True}}, "args": [],
                "podDisruptionBudget": {"enabled": False}, "models": {"volume": {"hostPath": {"path": "/m"}}},
            },
            {"Deployment", "Service", "ScaledObject"},
        ),
    ],
    ids=["default", "everything", "keda"],
)  # fmt: skip
def test_the_chart_renders_to_objects_of_kubernetes(values: dict[str, Any], kinds: set[str]):
    validate = pytest.importorskip("kubernetes_validate").validate
    objects = rendered(**values)
    assert {entry["kind"] for entry in objects} == kinds
    for entry in objects:
        if entry["apiVersion"].partition("/")[0] not in ("keda.sh", "monitoring.coreos.com"):
            validate(entry, "1.33", strict=True)
    (deployment,) = [entry for entry in objects if entry["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True
    sources = [set(volume) - {"name"} for volume in pod["volumes"]]
    assert all(len(source) == 1 for source in sources), "the API server takes one source of a volume"
    chosen = values.get("models", {}).get("volume", {"persistentVolumeClaim": {}})
    assert sources[0] == set(chosen)
    assert ("replicas" in deployment["spec"]) is not values.get("autoscaling", {}).get("enabled", False)


def test_a_chart_without_a_key_is_refused_in_a_sentence():
    pytest.importorskip("helm_sdkpy", reason="needs Python 3.12 and helm-sdkpy")
    with pytest.raises(AssertionError, match=r"give apiKey\.existingSecret"):
        rendered()
