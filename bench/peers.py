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

from . import towers

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
Settings = dict[str, Any]
BATCH = {"cpu": 32, "cuda": 128}
"""Rows per batch where a library asks for a number: on processors sentence-transformers' own default."""


def poolrt(settings: Settings) -> tuple[Encode, str]:
    """`engine`: as `load` takes it."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import conftest  # noqa: F401  (makes a bare checkout importable)

    load = importlib.import_module("poolrt.runtime.loader").load
    imported()
    model = load(settings["path"], threads=settings["threads"], engine=settings.get("engine", "auto"))
    return (lambda texts: np.asarray(model.embed(list(texts)))), f"poolrt with {model.engine.name}"


def sentence_transformers(settings: Settings) -> tuple[Encode, str]:
    """`dtype`, `device` and `attention` as transformers takes them; `backend` as sentence-transformers does,
    whose path then holds what the library exported for it."""
    import torch

    torch.set_num_threads(settings["threads"])
    library: Any = importlib.import_module("sentence_transformers")
    imported()
    if "backend" in settings:
        return _exported(library, settings)
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


def _exported(library: Any, settings: Settings) -> tuple[Encode, str]:
    backend = settings["backend"]
    chosen: dict[str, Any] = {"provider": "CPUExecutionProvider"}
    if backend == "openvino":
        chosen = {"ov_config": {"INFERENCE_NUM_THREADS": settings["threads"]}}
    model = library.SentenceTransformer(settings["path"], backend=backend, device="cpu", model_kwargs=chosen)
    name = {"onnx": "optimum-onnx", "openvino": "optimum-intel"}[backend]
    said = f"sentence-transformers {version('sentence-transformers')}, {name} {version(name)}"

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(model.encode(list(texts), batch_size=BATCH["cpu"], show_progress_bar=False))

    return encode, said


def fastembed(settings: Settings) -> tuple[Encode, str]:
    """The path holds model.onnx (the plain transformer) and the tokenizer's files;
    pooling is fastembed's own."""
    library: Any = importlib.import_module("fastembed")
    description: Any = importlib.import_module("fastembed.common.model_description")
    imported()
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


_STARTED = time.perf_counter()
_imported_s = 0.0


def imported() -> None:
    """Called when a library's modules are there."""
    global _imported_s
    _imported_s = time.perf_counter() - _STARTED


OPEN: dict[str, Callable[[Settings], tuple[Callable[[Any], NDArray[np.float32]], str]]] = {
    "poolrt-tower": lambda settings: towers.poolrt(settings, imported),
    "transformers-tower": lambda settings: towers.transformers(settings, imported),
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
    encode, said = OPEN[name](settings)
    read: Callable[[str], Any] = towers.picture if name.endswith("-tower") else str
    encode([read("0")])
    answer(import_s=_imported_s, version=said)
    for line in sys.stdin:
        request = json.loads(line)
        drawn = mixes[request["mix"]][request["start"] : request["start"] + request["count"]]
        texts = [read(text) for text in drawn]
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
