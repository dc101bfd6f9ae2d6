"""Renders the chart with Helm itself: installs it into an API server that keeps what it is sent.

Run by a Python that has helm-sdkpy: `python -m tests.deploy.rendering CHART VALUES`, VALUES being JSON. It
prints the objects as JSON, and ends with an error where Helm's linter finds one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KINDS = {
    "v1": {"Secret": "secrets", "Service": "services"},
    "apps/v1": {"Deployment": "deployments"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "monitoring.coreos.com/v1": {"ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"},
    "keda.sh/v1alpha1": {"ScaledObject": "scaledobjects"},
}
VERBS = ["create", "get", "list", "patch", "update", "delete"]
objects: list[dict[str, Any]] = []


class Cluster(BaseHTTPRequestHandler):
    """What Helm asks of a cluster in which nothing is installed."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None: ...

    def respond(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        known = {
            "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": list(map(group, KINDS))[1:]},
        }
        for version, kinds in KINDS.items():
            resources = [
                {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": VERBS}
                for kind, name in kinds.items()
            ]
            where = f"/apis/{version}" if "/" in version else f"/api/{version}"
            known[where] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        if path in known:
            self.respond(200, known[path])
        else:
            self.respond(404, {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})

    def do_POST(self) -> None:
        objects.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.respond(201, objects[-1])


def group(version: str) -> dict[str, Any]:
    entry = {"groupVersion": version, "version": version.rpartition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [entry], "preferredVersion": entry}


async def rendered(chart: str, values: dict[str, Any]) -> None:
    import helm_sdkpy  # pyright: ignore[reportMissingImports]

    server = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = Path(folder) / "config"
        kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1", "kind": "Config", "current-context": "c",
                    "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "users": [{"name": "u", "user": {"token": "none"}}],
                }
            )
        )  # fmt: skip
        configuration = helm_sdkpy.Configuration(namespace="default", kubeconfig=str(kubeconfig))
        lint = await helm_sdkpy.Lint(configuration).run(chart)
        # Severity 3 is an error, 2 a warning.
        assert not lint["Errors"], lint
        assert all(message["Severity"] < 2 for message in lint["Messages"] or ()), lint
        await helm_sdkpy.Install(configuration).run("rel", chart, values, wait=False)


if __name__ == "__main__":
    asyncio.run(rendered(sys.argv[1], json.loads(sys.argv[2])))
    print(json.dumps(objects))
