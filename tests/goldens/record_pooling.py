"""Records what the real vLLM's pooling tasks answer for tiny checkpoints, token ids in, arrays out: one .npz
for each (checkpoint, task).

    POOLRT_VLLM=.../bin/vllm python tests/goldens/record_pooling.py [NAME:TASK ...]

Run under vLLM's own Python (`--inside`), the same file is the program that asks it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "pooling"
LENGTHS = (2, 9, 5, 17)
OVERRIDES = {"bge_m3": {"architectures": ["BgeM3EmbeddingModel"]}}
RECORDED = (
    ("bge_m3", "embed"), ("bge_m3", "token_embed"), ("bge_m3", "token_classify"), ("colbert", "token_embed"),
    ("bert_plain", "embed"),
    ("bert_classifier", "token_classify"), ("roberta_multi_label", "token_classify"),
    ("bert_dense", "token_embed"),
)  # fmt: skip
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1",
}  # fmt: skip


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.checkpoints import ALL

    python = Path(os.environ["POOLRT_VLLM"]).with_name("python")
    wanted = [tuple(pair.split(":")) for pair in sys.argv[1:]] or RECORDED
    for name, task in wanted:
        with tempfile.TemporaryDirectory() as folder:
            ALL[name](Path(folder))
            special = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
            rng = np.random.default_rng(len(name))
            ids = [rng.integers(9, special["vocab_size"] - 1, length).tolist() for length in LENGTHS]
            # VLLM drops the ends only where they are <s> and </s>, as they are in every text
            if name == "bge_m3":
                ids = [[0, *row[1:-1], 2] for row in ids]
            asked = {
                "folder": folder,
                "task": task,
                "ids": ids,
                "overrides": OVERRIDES.get(name, {}),
                "out": f"{folder}/answers.npz",
            }
            subprocess.run(
                [python, __file__, "--inside"],
                input=json.dumps(asked).encode(),
                env=os.environ | SETTINGS,
                check=True,
            )
            answers = dict(np.load(asked["out"]))
            digest = np.array(weights_digest(Path(folder)))
        FOLDER.mkdir(exist_ok=True)
        inputs = {f"ids_{index}": np.array(row) for index, row in enumerate(ids)}
        np.savez_compressed(FOLDER / f"{name}-{task}.npz", weights=digest, **inputs, **answers)
        print(f"{name} {task}: {[answers[f'out_{index}'].shape for index in range(len(ids))]}", flush=True)


def weights_digest(folder: Path) -> str:
    """Of every tensor: a golden only speaks about the very weights it was recorded with."""
    import torch
    from safetensors.torch import load_file

    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".bin", ".pt"):
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
            for name in sorted(state):
                digest.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def inside() -> None:
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]
    import vllm  # pyright: ignore[reportMissingImports]

    asked = json.load(sys.stdin)
    model = vllm.LLM(
        model=asked["folder"], runner="pooling", dtype="float32", enforce_eager=True,
        hf_overrides=asked["overrides"],
        pooler_config={"task": asked["task"]}, enable_prefix_caching=False, seed=0,
    )  # fmt: skip
    answers = model.encode(
        [{"prompt_token_ids": row} for row in asked["ids"]], pooling_task=asked["task"], use_tqdm=False
    )
    arrays = {
        f"out_{index}": np.asarray(answer.outputs.data, dtype=np.float32)
        for index, answer in enumerate(answers)
    }
    versions = {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    np.savez(asked["out"], **{"versions": np.array(json.dumps(versions)), **arrays})  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    inside() if "--inside" in sys.argv else main()
