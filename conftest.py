"""Makes a bare checkout importable as `poolrt`, whether or not it is installed."""

import sys
import types
from pathlib import Path

sys.modules.setdefault("poolrt", types.ModuleType("poolrt")).__path__ = [str(Path(__file__).parent)]
