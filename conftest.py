"""Makes a bare checkout importable as `poolrt`, whether or not it is installed."""

import importlib.util
import sys
from pathlib import Path

if "poolrt" not in sys.modules:
    spec = importlib.util.spec_from_file_location("poolrt", Path(__file__).parent / "package" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["poolrt"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["poolrt"])
