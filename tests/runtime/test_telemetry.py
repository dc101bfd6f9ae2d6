"""ONNX Runtime reports nothing home (docs/decisions/telemetry.md): it writes its identifier when it may."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OPENED = "from poolrt.runtime.engines.ort import library; library()"


@pytest.mark.skipif(sys.platform != "linux", reason="the folder is another elsewhere")
def test_onnx_runtime_leaves_no_identifier(tmp_path: Path):
    """Beside a run that may report, and reaches nobody: the test sees what it looks for."""
    written: dict[str, list[str]] = {}
    for choice, variables in {
        "default": {},
        "allowed": {"ORT_DISABLE_TELEMETRY": "0", "https_proxy": "http://127.0.0.1:9"},
    }.items():
        home = tmp_path / choice
        home.mkdir()
        # A machine of CI reports nothing anyway, by this variable.
        kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
        subprocess.run([sys.executable, "-c", OPENED], env=kept | variables | {"HOME": str(home)}, check=True)
        written[choice] = [path.name for path in home.rglob("*") if path.is_file()]
    assert "deviceid" in written["allowed"], "ONNX Runtime stores its identifier elsewhere now"
    assert written["default"] == []
