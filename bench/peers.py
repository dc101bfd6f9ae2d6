"""One library in a process of its own: `python -m bench.peers NAME SETTINGS`. Lines of JSON on stdin say what
it encodes.

Two engines in one process would disturb each other's thread pools. A peer that has no request sleeps in a
read. The texts are read from a file once, and a request names a stretch of them. What is timed is one call
with a list of strings that ends with float32 vectors in numpy.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
Settings = dict[str, Any]
BATCH = {"cpu": 32, "cuda": 128}
"""Rows per batch where a library asks for a number: on processors sentence-transformers' own default."""


def poolrt(settings: Settings) -> tuple[Encode, str]:
    """`engine`: as `load` takes it."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import conftest  # noqa: F401  (makes a bare checkout importable)

    runtime = importlib.import_module("poolrt.runtime")
    model = runtime.load(settings["path"], threads=settings["threads"], engine=settings.get("engine", "auto"))
    return (lambda texts: np.asarray(model.embed(list(texts)))), f"poolrt with {model.engine.name}"


def sentence_transformers(settings: Settings) -> tuple[Encode, str]:
    """`dtype`, `device` and `attention` as transformers takes them."""
    import torch

    torch.set_num_threads(settings["threads"])
    library: Any = importlib.import_module("sentence_transformers")
    chosen = {"dtype": getattr(torch, settings.get("dtype", "float32"))}
    if "attention" in settings:
        chosen["attn_implementation"] = settings["attention"]
    device = settings.get("device", "cpu")
    model = library.SentenceTransformer(settings["path"], device=device, model_kwargs=chosen)
    said = f"sentence-transformers {version('sentence-transformers')}, torch {version('torch')}"

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        tensor = model.encode(
            list(texts), batch_size=BATCH[device], show_progress_bar=False, convert_to_tensor=True
        )
        return tensor.float().cpu().numpy()  # numpy has no bf16

    return encode, said


def fastembed(settings: Settings) -> tuple[Encode, str]:
    """The path holds model.onnx (the plain transformer) and the tokenizer's files;
    pooling is fastembed's own."""
    library: Any = importlib.import_module("fastembed")
    description: Any = importlib.import_module("fastembed.common.model_description")
    library.TextEmbedding.add_custom_model(
        model="bench/minilm",
        pooling=description.PoolingType.MEAN,
        normalization=True,
        dim=384,
        model_file="model.onnx",
        sources=description.ModelSource(hf="bench/minilm"),
    )
    model = library.TextEmbedding(
        "bench/minilm", specific_model_path=settings["path"], threads=settings["threads"]
    )
    return (
        lambda texts: np.stack(list(model.embed(list(texts), batch_size=BATCH["cpu"])))
    ), f"fastembed {version('fastembed')}"


OPEN: dict[str, Callable[[Settings], tuple[Encode, str]]] = {
    "poolrt": poolrt,
    "sentence-transformers": sentence_transformers,
    "fastembed": fastembed,
}


def version(name: str) -> str:
    from importlib.metadata import version as of

    return of(name)


def resident_mib() -> float:
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    name, settings = sys.argv[1], json.loads(sys.argv[2])
    # Libraries may print to stdout, which is the parent's; the answers go to the real one.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: object) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    mixes = json.loads(Path(settings["texts"]).read_text(encoding="utf-8"))
    started = time.perf_counter()
    encode, said = OPEN[name](settings)
    encode(["warm"])
    answer(ready_s=time.perf_counter() - started, version=said)
    for line in sys.stdin:
        request = json.loads(line)
        texts = mixes[request["mix"]][request["start"] : request["start"] + request["count"]]
        if "vectors" in request:
            # One text at a time, so that no library's batching is in the reference or hidden by it.
            np.save(
                request["vectors"],
                np.concatenate([np.asarray(encode([text]), dtype=np.float32) for text in texts]),
            )
            answer(done=True)
            continue
        before = os.times()
        started = time.perf_counter()
        if request["one_by_one"]:
            for text in texts:
                encode([text])
        else:
            encode(texts)
        seconds = time.perf_counter() - started
        after = os.times()
        cpu = after.user - before.user + after.system - before.system
        answer(seconds=seconds, cpu_s=cpu, resident_mib=resident_mib())


if __name__ == "__main__":
    main()
