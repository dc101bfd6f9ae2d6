"""Records how the real vLLM's parser reads the command lines of tests/serve/command_lines.py: `make goldens`.

POOLRT_VLLM names the `vllm` program; the Python beside it parses.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SCRIPT = """
import contextlib, dataclasses, io, json, sys
import vllm
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

def plain(value):
    if dataclasses.is_dataclass(value):
        return {key: item for key, item in vars(value).items() if item is not None}
    return value

lines, names = json.load(sys.stdin)
parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
defaults = vars(parser.parse_args([]))
parsed = {}
for line in lines:
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            values = vars(parser.parse_args(json.loads(line)))
    except SystemExit:
        parsed[line] = "refused: " + refusal.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        continue
    changed = {name: plain(values.get(name)) for name in names if values.get(name) != defaults.get(name)}
    parsed[line] = json.loads(json.dumps(changed, default=str))
print(json.dumps({"vllm": vllm.__version__, "parsed": parsed}))
"""


def main() -> None:
    from tests.serve.command_lines import LINES, NAMES

    program = os.environ.get("POOLRT_VLLM")
    if program is None:
        print("POOLRT_VLLM is not set: how vLLM reads command lines stays as it is")
        return
    python = Path(program).with_name("python")
    done = subprocess.run(
        [python, "-c", SCRIPT],
        input=json.dumps([LINES, NAMES]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    recorded = json.loads(done.stdout.splitlines()[-1])
    path = Path(__file__).parent / "http" / "command_lines.json"
    path.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(recorded['parsed'])} command lines")


if __name__ == "__main__":
    main()
