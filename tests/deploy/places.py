"""Where the files are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples" / "deploy"
CHART = DEPLOY / "helm" / "poolrt"
ALERTS = DEPLOY / "compose" / "prometheus" / "alerts.yml"
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
UNIT = DEPLOY / "systemd" / "poolrt.service"
