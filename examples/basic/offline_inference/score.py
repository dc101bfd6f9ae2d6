"""The other path that vLLM's documentation has for examples/offline_inference/basic/score.py."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parents[2] / "offline_inference/basic/score.py"), run_name="__main__")
